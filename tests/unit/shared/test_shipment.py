"""How rows of the outbox travel: which partition, what shares a record batch, and what a refusal holds back."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from aiokafka import partitioner
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, NotLeaderForPartitionError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from shared.ids import new_id
from shared.messaging.outbox import Row
from shared.messaging.shipment import Shipment, murmur2

NOW = datetime(2026, 11, 22, tzinfo=UTC)
TOPIC = "gongdan.intake"
PARTITIONS = 4
BATCH_BYTES = 4096

Refuses = Callable[[str, int, list[tuple[str, int]]], Exception | None]


class Broker:
    """Takes whole batches, as (subject, version) by partition, or refuses them; one batch a partition at a time."""

    def __init__(self, refuses: Refuses = lambda topic, partition, records: None, missing: str = "") -> None:
        self._refuses = refuses
        self._missing = missing
        self._under_way: set[tuple[str, int]] = set()
        self.log: dict[tuple[str, int], list[tuple[str, int]]] = {}
        self.batches = 0

    async def partitions_for(self, topic: str) -> set[int]:
        if topic == self._missing:
            raise KafkaError
        return set(range(PARTITIONS))

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(BATCH_BYTES, 0)

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> "asyncio.Future[Any]":
        assert (topic, partition) not in self._under_way, "a batch left before the one before it was acknowledged"
        self._under_way.add((topic, partition))
        return asyncio.ensure_future(self._answer(batch, topic, partition))

    async def _answer(self, batch: BatchBuilder, topic: str, partition: int) -> None:
        await asyncio.sleep(0)
        self._under_way.discard((topic, partition))
        self.batches += 1
        records = read(batch)
        if error := self._refuses(topic, partition, records):
            raise error
        self.log.setdefault((topic, partition), []).extend(records)


def read(batch: BatchBuilder) -> list[tuple[str, int]]:
    found = MemoryRecords(bytes(batch._build())).next_batch()
    assert found is not None
    return [(record.key.decode(), int(dict(record.headers)["ce_sequence"])) for record in found]


def rows(*wanted: tuple[UUID, int], topic: str = TOPIC, payload: bytes = b"{}") -> list[Row]:
    return [
        Row(number, NOW, topic, subject, version, new_id(), "ticket.registered", NOW, None, None, payload, NOW)
        for number, (subject, version) in enumerate(wanted)
    ]


async def sent(broker: Broker, waiting: list[Row]) -> Shipment:
    shipment = Shipment(broker, "/gongdan/intake", waiting)
    await shipment.send()
    return shipment


@given(st.binary(max_size=80))
def test_the_hash_is_that_of_the_clients(data: bytes) -> None:
    assert murmur2(data) == partitioner.murmur2(data)


async def test_a_record_stands_where_the_default_partitioner_puts_it() -> None:
    broker, subjects = Broker(), [new_id() for _ in range(50)]
    await sent(broker, rows(*((subject, 1) for subject in subjects)))
    choose = partitioner.DefaultPartitioner()
    for (_, partition), records in broker.log.items():
        for key, _ in records:
            assert choose(key.encode(), list(range(PARTITIONS)), []) == partition


async def test_events_of_a_subject_keep_their_order_over_many_batches() -> None:
    broker, subjects = Broker(), [new_id() for _ in range(8)]
    waiting = rows(*((subject, version) for version in range(1, 21) for subject in subjects), payload=bytes(300))
    shipment = await sent(broker, waiting)
    assert len(shipment.sent) == len(waiting)
    assert broker.batches > PARTITIONS
    for subject in map(str, subjects):
        (found,) = [records for records in broker.log.values() if any(key == subject for key, _ in records)]
        assert [version for key, version in found if key == subject] == list(range(1, 21))


async def test_a_record_larger_than_a_batch_goes_alone() -> None:
    broker, subject = Broker(), new_id()
    waiting = [*rows((subject, 1)), *rows((subject, 2), payload=bytes(BATCH_BYTES * 2)), *rows((subject, 3))]
    await sent(broker, waiting)
    assert broker.batches == 3
    assert [version for (records) in broker.log.values() for _, version in records] == [1, 2, 3]


async def test_a_record_too_large_for_the_broker_holds_back_its_own_subject_only() -> None:
    large, others = new_id(), [new_id() for _ in range(20)]

    def refuses(topic: str, partition: int, records: list[tuple[str, int]]) -> Exception | None:
        return MessageSizeTooLargeError() if (str(large), 2) in records else None

    broker = Broker(refuses)
    waiting = rows(*((subject, version) for version in (1, 2, 3) for subject in [*others[:10], large, *others[10:]]))
    shipment = await sent(broker, waiting)
    assert shipment.too_large == {large}
    assert shipment.failure is None
    arrived = sorted(each for records in broker.log.values() for each in records)
    assert arrived == sorted([(str(large), 1), *((str(each), version) for each in others for version in (1, 2, 3))])
    assert {(row.subject, row.version) for row in shipment.sent} == {(UUID(key), version) for key, version in arrived}


async def test_a_partition_that_fails_gets_nothing_more_and_the_others_everything() -> None:
    subjects = [new_id() for _ in range(40)]

    def refuses(topic: str, partition: int, records: list[tuple[str, int]]) -> Exception | None:
        return NotLeaderForPartitionError() if partition == 1 else None

    broker = Broker(refuses)
    waiting = rows(*((subject, version) for version in (1, 2, 3) for subject in subjects), payload=bytes(600))
    shipment = await sent(broker, waiting)
    assert isinstance(shipment.failure, NotLeaderForPartitionError)
    assert shipment.refusing == {TOPIC}
    assert (TOPIC, 1) not in broker.log
    stored = sum(map(len, broker.log.values()))
    assert len(shipment.sent) == stored > 60
    assert stored % 3 == 0


@pytest.mark.parametrize("missing", ["gongdan.gone"])
async def test_a_topic_that_is_not_there_holds_up_no_other(missing: str) -> None:
    broker, subject = Broker(missing=missing), new_id()
    shipment = await sent(broker, [*rows((subject, 1), topic=missing), *rows((subject, 1))])
    assert [row.topic for row in shipment.sent] == [TOPIC]
    assert shipment.refusing == {missing}
