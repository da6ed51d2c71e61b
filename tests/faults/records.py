"""Faults in the log itself: every record again, later events before earlier ones, records that nobody can apply.

What was put in is written to `injected.jsonl`, so that whoever checks the log afterwards knows that it was us.
"""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from deploy.audit.topics import PLANTED_COPY
from deploy.local.postgres import database_name
from shared.contracts.envelope import Envelope
from shared.contracts.topics import BRANCH_REPLIES, DISPATCH, INTAKE, REVIEW, SLA, topic_file
from shared.ids import new_id
from tests.faults.stack import FaultStack

OWN_TOPICS = (INTAKE, REVIEW, DISPATCH, SLA)
COPIED_TOPICS = (*OWN_TOPICS, BRANCH_REPLIES)
MARK = "faults_poison"
REQUEST_MS = 5_000
PATIENCE_SECONDS = 40.0
PAUSE_SECONDS = 0.5
LARGE_BYTES = 1_000_000
DEPTH = 20_000

UNPUBLISHED = """
SELECT topic, subject, version, event_id, type, time, traceparent, payload FROM outbox
WHERE published_at IS NULL AND topic = $1 ORDER BY id
"""


class Log:
    """The broker as a stranger with write access sees it. A broker that is away is waited for, within bounds."""

    def __init__(self, stack: FaultStack, injected: Path, chance: random.Random) -> None:
        self._stack = stack
        self._injected = injected
        self._chance = chance
        self.poison: dict[str, str] = {}
        """Mark to topic of what was acknowledged."""

    async def send_all_again(self) -> int:
        """Every record of the services' topics and of the branches' commands once more; how many."""
        records = [record for record in await self._everything() if MARK not in dict(record.headers)]
        async with self._producer() as producer:
            for record in records:
                await producer.send(
                    record.topic, record.value, key=record.key, headers=list(record.headers), partition=record.partition
                )
            await producer.flush()
        self._note(kind="duplicates", records=len(records))
        return len(records)

    async def send_later_ones_first(self, service: str) -> int:
        """Of each ticket's unpublished events all but the first, the last one first; how many. Its relay is asleep."""
        connection = await asyncpg.connect(self._stack.dsn(database_name(service)), timeout=5)
        try:
            rows = await connection.fetch(UNPUBLISHED, f"gongdan.{service}")
        finally:
            await connection.close()
        lines: dict[UUID, list[Any]] = defaultdict(list)
        for row in rows:
            lines[row["subject"]].append(row)
        sent = 0
        async with self._producer() as producer:
            for subject, line in lines.items():
                for row in reversed(line[1:]):
                    headers = [*_headers(service, row), (PLANTED_COPY, b"1")]
                    await producer.send(row["topic"], row["payload"], key=str(subject).encode(), headers=headers)
                    sent += 1
                if len(line) > 1:
                    self._note(kind="reorder", topic=line[0]["topic"], subject=str(subject))
            await producer.flush()
        return sent

    async def send_poison(self) -> int:
        """One of each kind of record that nobody can apply; how many."""
        kinds = [*((topic, what) for topic in (self._chance.choice(OWN_TOPICS), BRANCH_REPLIES) for what in ENVELOPES)]
        kinds += [(BRANCH_REPLIES, what) for what in BODIES]
        async with self._producer() as producer:
            for topic, what in kinds:
                mark = str(new_id())
                key, headers, value = _poison(what)
                if what in ENVELOPES:
                    headers = _spoilt(what, headers)
                self._note(kind="poison", topic=topic, what=what, mark=mark)
                await producer.send_and_wait(topic, value, key=key, headers=[*headers, (MARK, mark.encode())])
                self.poison[mark] = topic
        return len(kinds)

    async def _everything(self) -> list[Any]:
        counts = {topic.name: topic.partitions for topic in topic_file().topics}
        partitions = [TopicPartition(topic, number) for topic in COPIED_TOPICS for number in range(counts[topic])]
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._stack.layout.bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=REQUEST_MS,
        )
        records: list[Any] = []
        try:
            await _patiently(consumer.start)
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            await consumer.seek_to_beginning(*partitions)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while any([await consumer.position(each) < ends[each] for each in partitions]):
                    for found in (await consumer.getmany(timeout_ms=500)).values():
                        records += found
        finally:
            with suppress(KafkaError, OSError, TimeoutError):
                await asyncio.wait_for(consumer.stop(), 3)
        return records

    @asynccontextmanager
    async def _producer(self) -> AsyncIterator[AIOKafkaProducer]:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._stack.layout.bootstrap,
            acks="all",
            enable_idempotence=False,
            request_timeout_ms=REQUEST_MS,
            max_request_size=2 * LARGE_BYTES,
        )
        try:
            await _patiently(producer.start)
            async with asyncio.timeout(PATIENCE_SECONDS):
                yield producer
        finally:
            with suppress(KafkaError, OSError, TimeoutError):
                await asyncio.wait_for(producer.stop(), 3)

    def _note(self, **what: Any) -> None:
        with self._injected.open("a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")


async def _patiently(start: Any) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                await start()
                return
            except (KafkaError, OSError):
                await asyncio.sleep(PAUSE_SECONDS)


def _headers(service: str, row: Any) -> list[tuple[str, bytes]]:
    """The headers that the relay gives the same row."""
    return Envelope(
        row["event_id"],
        f"/gongdan/{service}",
        row["type"],
        row["subject"],
        row["time"],
        sequence=row["version"],
        traceparent=row["traceparent"],
    ).headers()


Headers = Sequence[tuple[str, bytes]]
ENVELOPES = ("no_headers", "unknown_type", "future_schema", "null_value", "null_key")
BODIES = ("bad_utf8", "bad_json", "large", "deep")


def _poison(what: str) -> tuple[bytes | None, list[tuple[str, bytes]], bytes | None]:
    """Key, headers and value of a command whose body is wrong, or will not be read at all."""
    subject = new_id()
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", str(new_id()).encode()),
        ("ce_source", b"/branch/jinan"),
        ("ce_type", b"order.accept"),
        ("ce_subject", str(subject).encode()),
        ("ce_time", b"2026-01-01T00:00:00+00:00"),
        ("ce_sequence", b"1"),
    ]
    values = {
        "bad_utf8": b'{"branch": "\xff\xfe", "actor": "x"}',
        "bad_json": b'{"branch": ',
        "large": b'{"branch": "' + b"x" * LARGE_BYTES + b'"}',
        "deep": b'{"branch":' * DEPTH,
        "null_value": None,
    }
    key = None if what == "null_key" else str(subject).encode()
    return key, headers, values.get(what, b"{}")


def _spoilt(what: str, headers: Headers) -> list[tuple[str, bytes]]:
    wrong = {"unknown_type": ("ce_type", b"order.invented"), "null_key": ("ce_type", b"order.keyless")}
    if what == "no_headers":
        return []
    if what == "future_schema":
        return [*headers, ("ce_dataschema", b"urn:gongdan:order.accept:9")]
    return list((dict(headers) | dict([wrong[what]])).items()) if what in wrong else list(headers)
