"""Create the topics that are missing, and the identity of the log. Safe to run any number of times.

    python -m deploy.local.topics --bootstrap 127.0.0.1:19092 --pack mobile_operator

The one-machine runner, docker compose and a cluster's start-up job use this same command. A topic that exists is
left as it is; one with too few partitions is reported, not changed, because adding partitions moves keys. A
secured broker is reached with KAFKA_SECURITY_PROTOCOL, KAFKA_USERNAME, KAFKA_PASSWORD_FILE and KAFKA_CA_FILE.
"""

import argparse
import asyncio
import sys
import uuid
from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError

from shared.contracts.topics import INCARNATION, Topic, all_topics
from shared.failpoints import reach
from shared.messaging.broker import BrokerAddress
from shared.policy.loader import load_pack
from shared.settings import broker_from_environment

HOUR_MS = 3_600_000
REQUEST_TIMEOUT_MS = 15_000
VISIBLE_SECONDS = 20.0


class TopicsNotReady(Exception):
    """A topic could not be made or does not have the shape that `topics.yaml` asks for."""


def retention_ms(topic: Topic) -> int:
    """For Kafka's `retention.ms`; -1 keeps records for ever."""
    return -1 if topic.retention_hours < 0 else topic.retention_hours * HOUR_MS


async def create_missing(
    broker: BrokerAddress, topics: Iterable[Topic], replication: int, min_insync: int | None = None
) -> list[str]:
    """Create the topics that do not exist yet; returns their names.

    Raises:
        TopicsNotReady: a topic was refused, or exists with another number of partitions.
        KafkaError: the broker cannot be reached.
    """
    wanted = {topic.name: topic for topic in topics}
    admin = AIOKafkaAdminClient(**broker.options(), request_timeout_ms=REQUEST_TIMEOUT_MS)
    await admin.start()
    try:
        existing = set(await admin.list_topics())
        new = [
            NewTopic(
                name=name,
                num_partitions=topic.partitions,
                replication_factor=replication,
                topic_configs={
                    "retention.ms": str(retention_ms(topic)),
                    **({"min.insync.replicas": str(min_insync)} if min_insync else {}),
                },
            )
            for name, topic in wanted.items()
            if name not in existing
        ]
        if new:
            answer = await admin.create_topics(new)
            for name, code, *message in answer.topic_errors:
                if code not in (0, TopicAlreadyExistsError.errno):
                    raise TopicsNotReady(f"topic {name} was refused: error {code} {' '.join(map(str, message))}")
        await _await_shape(admin, wanted)
    finally:
        await admin.close()
    return [topic.name for topic in new]


async def _await_shape(admin: AIOKafkaAdminClient, wanted: dict[str, Topic]) -> None:
    """Wait until every topic is visible, then compare the numbers of partitions."""
    async with asyncio.timeout(VISIBLE_SECONDS):
        while True:
            described = await admin.describe_topics(list(wanted))
            partitions = {one["topic"]: len(one["partitions"]) for one in described if one["error_code"] == 0}
            if partitions.keys() >= wanted.keys():
                break
            await asyncio.sleep(0.1)
    wrong = [
        f"{name} has {partitions[name]} partitions instead of {topic.partitions}"
        for name, topic in wanted.items()
        if partitions[name] != topic.partitions
    ]
    if wrong:
        raise TopicsNotReady("; ".join(wrong))


async def ensure_incarnation(broker: BrokerAddress) -> bool:
    """Write this log's identity (a UUID) if its topic is empty; returns whether it was written.

    Two at once could write two records: readers take the first one.
    """
    partition = TopicPartition(INCARNATION, 0)
    consumer = AIOKafkaConsumer(**broker.options(), request_timeout_ms=REQUEST_TIMEOUT_MS)
    await consumer.start()
    try:
        if (await consumer.end_offsets([partition]))[partition] > 0:
            return False
    finally:
        await consumer.stop()
    producer = AIOKafkaProducer(**broker.options(), acks="all", request_timeout_ms=REQUEST_TIMEOUT_MS)
    await producer.start()
    try:
        await producer.send_and_wait(INCARNATION, value=str(uuid.uuid4()).encode(), partition=0)
    finally:
        await producer.stop()
    return True


async def prepare(broker: BrokerAddress, pack: str, replication: int, min_insync: int | None) -> None:
    topics = all_topics(branch.id for branch in load_pack(pack).branches)
    created = await create_missing(broker, topics, replication, min_insync)
    reach("topics.created")
    written = await ensure_incarnation(broker)
    print(f"topics: {len(created)} created, {len(topics) - len(created)} there already; identity", end=" ")
    print("written" if written else "there already")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.topics", description="Create missing topics.")
    parser.add_argument("--bootstrap", required=True, help="host:port[,host:port…] of Kafka")
    parser.add_argument("--pack", default="mobile_operator", help="policy pack whose branches get a topic each")
    parser.add_argument("--replication", type=int, default=1, help="copies of each partition (3 in a cluster)")
    parser.add_argument("--min-insync", type=int, help="copies that must take a record (default: the broker's)")
    arguments = parser.parse_args()
    try:
        broker = broker_from_environment(arguments.bootstrap)
        asyncio.run(prepare(broker, arguments.pack, arguments.replication, arguments.min_insync))
    except (KafkaError, TopicsNotReady, OSError, ValueError) as error:
        sys.exit(f"topics: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
