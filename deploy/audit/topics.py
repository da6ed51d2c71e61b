"""What an audit reads from the log: every record of every topic of ours, without joining a consumer group.

Of a record only ids, versions and digests are kept. A record that aiokafka cannot read (a header whose name is not
UTF-8) is stepped over, as the services do; it is no event of ours.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient

from deploy.audit.evidence import Evidence
from deploy.audit.personal import Search
from deploy.audit.places import found_in
from shared.contracts.envelope import SOURCE_PREFIX
from shared.contracts.topics import BRANCH_REPLIES, DISPATCH, INCARNATION
from shared.messaging.broker import BrokerAddress

PREFIX = "gongdan."
DEAD_LETTERS = ".dlq"
# On copies that a fault test put into the log before their turn: their place is not the relay's doing.
PLANTED_COPY = "planted_copy"
ANSWER_SECONDS = 15.0
FETCH_MS = 1000
# An answer without records while some are left: the broker may be slow, but not for this long.
SILENCE_SECONDS = 30.0
FETCH_BYTES = 1024 * 1024

Marks = dict[TopicPartition, int]


class LogUnreadable(Exception):
    """The broker stopped answering; the text says where."""


def is_branch_topic(name: str) -> bool:
    return name.startswith(f"{DISPATCH}.") and not name.endswith(DEAD_LETTERS)


@dataclass(frozen=True)
class Log:
    """The log, read without a group. `partitions` are those of our topics that existed at the beginning."""

    consumer: AIOKafkaConsumer
    partitions: tuple[TopicPartition, ...]

    async def ends(self) -> Marks:
        """The next offset of every partition."""
        return dict(await asyncio.wait_for(self.consumer.end_offsets(list(self.partitions)), ANSWER_SECONDS))

    async def begins(self) -> Marks:
        """The first offset that every partition still holds."""
        return dict(await asyncio.wait_for(self.consumer.beginning_offsets(list(self.partitions)), ANSWER_SECONDS))


@asynccontextmanager
async def open_log(broker: BrokerAddress) -> AsyncIterator[Log]:
    """Raises `KafkaError` or `TimeoutError` when the broker is away."""
    consumer = AIOKafkaConsumer(
        **broker.options(),
        enable_auto_commit=False,
        # Where the log was trimmed while we read, go on with what is left.
        auto_offset_reset="earliest",
        # The embedded broker waits this out at each fetch of an empty partition.
        fetch_max_wait_ms=20,
        max_partition_fetch_bytes=FETCH_BYTES,
        request_timeout_ms=int(ANSWER_SECONDS * 1000),
    )
    try:
        await asyncio.wait_for(consumer.start(), ANSWER_SECONDS)
        partitions = await asyncio.wait_for(_partitions(broker), ANSWER_SECONDS)
        # Assigned together, they are looked up together: one by one took seconds. Nothing is fetched yet.
        consumer.assign(partitions)
        consumer.pause(*partitions)
        yield Log(consumer, partitions)
    finally:
        await asyncio.wait_for(consumer.stop(), ANSWER_SECONDS)


async def _partitions(broker: BrokerAddress) -> tuple[TopicPartition, ...]:
    """Asked for all at once: a topic that is asked for by name may be created by that."""
    client = AIOKafkaClient(**broker.options(), request_timeout_ms=int(ANSWER_SECONDS * 1000))
    await client.bootstrap()
    try:
        cluster = await client.fetch_all_metadata()
        names = sorted(name for name in cluster.topics() if name.startswith(PREFIX))
        return tuple(
            TopicPartition(name, number) for name in names for number in sorted(cluster.partitions_for_topic(name))
        )
    finally:
        await client.close()


async def read_topics(evidence: Evidence, search: Search, log: Log) -> None:
    """Store what the log holds now, up to its ends at the beginning of the reading."""
    consumer, until, begins = log.consumer, await log.ends(), await log.begins()
    first_at: dict[TopicPartition, int] = {}
    left = {partition for partition, end in until.items() if begins[partition] < end}
    consumer.assign(sorted(left))
    for partition in left:
        consumer.seek(partition, begins[partition])
    loop = asyncio.get_running_loop()
    heard = loop.time()
    while left:
        fetched = await _fetch(consumer, left)
        if fetched:
            heard = loop.time()
        elif loop.time() - heard > SILENCE_SECONDS:
            raise LogUnreadable(f"no more records of {min(left).topic}, and its end is not reached")
        for partition, records in fetched.items():
            first_at.setdefault(partition, records[0].timestamp)
            ours = [raw for raw in records if raw.offset < until[partition] and not _is_planted(raw)]
            evidence.add("records", [_kept(evidence, search, raw) for raw in ours])
        for partition in [each for each in left]:
            if await consumer.position(partition) >= until[partition]:
                left.discard(partition)
                consumer.pause(partition)
    evidence.add(
        "partitions",
        [(*each, begins[each], until[each], first_at.get(each, 0) * 1000) for each in sorted(until)],
    )


async def _fetch(consumer: AIOKafkaConsumer, left: set[TopicPartition]) -> dict[TopicPartition, list[Any]]:
    try:
        fetched: dict[TopicPartition, list[Any]] = await consumer.getmany(*left, timeout_ms=FETCH_MS)
        return fetched
    except UnicodeDecodeError:
        pass
    for partition in sorted(left):
        try:
            fetched = await consumer.getmany(partition, timeout_ms=FETCH_MS, max_records=1)
        except UnicodeDecodeError:
            consumer.seek(partition, await consumer.position(partition) + 1)
            continue
        if fetched:
            return fetched
    return {}


def _is_planted(raw: Any) -> bool:
    return any(name == PLANTED_COPY for name, _ in raw.headers)


def _kept(evidence: Evidence, search: Search, raw: Any) -> tuple[Any, ...]:
    headers = [(name, bytes(value or b"")) for name, value in raw.headers]
    said = {name: value.decode("utf-8", "replace") for name, value in headers}
    value = raw.value or b""
    place = f"topic {raw.topic}/{raw.partition} offset {raw.offset}"
    if raw.topic != BRANCH_REPLIES:
        # What branches write themselves is theirs; what becomes of it here is searched.
        for text in _texts(raw.key or b"", headers, value):
            found_in(evidence, search, text, place)
    if raw.topic == INCARNATION and evidence.scope.incarnation is None:
        evidence.scope.incarnation = value.decode("utf-8", "replace")
        evidence.scope.log_from = raw.timestamp * 1000
    version = said.get("ce_sequence", "")
    return (
        raw.topic,
        raw.partition,
        raw.offset,
        raw.timestamp * 1000,
        said.get("ce_id"),
        said.get("ce_subject"),
        said.get("ce_source", "").removeprefix(SOURCE_PREFIX),
        int(version) if version.isascii() and version.isdecimal() and len(version) < 10 else None,
        _branch(value) if is_branch_topic(raw.topic) else None,
        hashlib.sha256(value).hexdigest(),
        hashlib.sha256(repr((raw.key, headers, raw.value)).encode()).hexdigest(),
        *(_dead_letter(said) if raw.topic.endswith(DEAD_LETTERS) else (None,) * 4),
    )


def _texts(key: bytes, headers: list[tuple[str, bytes]], value: bytes) -> Iterator[str]:
    yield key.decode("utf-8", "replace")
    yield "\n".join(f"{name}: {text.decode('utf-8', 'replace')}" for name, text in headers)
    yield value.decode("utf-8", "replace")


def _dead_letter(said: dict[str, str]) -> tuple[Any, ...]:
    """Service, topic, partition and offset of the record that died, as the headers tell."""
    try:
        place = int(said["dead_partition"]), int(said["dead_offset"])
    except (KeyError, ValueError):
        return (said.get("dead_service"), said.get("dead_topic"), None, None)
    return (said.get("dead_service"), said.get("dead_topic"), *place)


def _branch(value: bytes) -> str | None:
    try:
        data = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return data.get("branch") if isinstance(data, dict) and isinstance(data.get("branch"), str) else None
