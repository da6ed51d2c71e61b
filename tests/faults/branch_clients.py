"""Branches that work over Kafka: each reads its own topic and answers with commands, journalled like requests.

A careful branch notices another log (the embedded broker comes back empty) and sends again what it had sent lately to
the one that is gone; the same `ce_id` keeps that from counting twice.
"""

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from shared.contracts.envelope import Envelope, MalformedEnvelope, read_envelope
from shared.contracts.topics import BRANCH_REPLIES, branch_topic
from shared.ids import new_id
from shared.messaging.broker import BrokerAddress
from shared.messaging.log_watch import LogWatch
from tests.faults.journal import Journal
from tests.faults.people import HELD_SECONDS, HELD_SHARE, KAFKA_BRANCHES, Town
from tests.support.journey import reply_body

REQUEST_MS = 5_000
SEND_SECONDS = 8.0
PAUSE_SECONDS = 0.5
# What dispatch reads later than this was lost with the log it stood in, or dispatch is far behind.
LATELY_SECONDS = 120.0
REMEMBERED = 10_000


class BranchClients:
    """All of them, with one reader and one producer. `sent` counts commands that the broker acknowledged."""

    def __init__(self, run: Mapping[str, Any], journal: Journal, town: Town) -> None:
        self._bootstrap: str = run["kafka"]["bootstrap_servers"]
        self._journal = journal
        self._town = town
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()
        self._watch = LogWatch(BrokerAddress(self._bootstrap))
        self._lately: deque[tuple[float, str, Envelope, bytes]] = deque(maxlen=REMEMBERED)
        self.sent = 0

    async def run(self) -> None:
        """Read until cancelled; a broker that is away is waited for."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch.run())
            tasks.create_task(self._send_again_to_another_log())
            while True:
                try:
                    await self._read()
                except (KafkaError, OSError, TimeoutError):
                    await asyncio.sleep(PAUSE_SECONDS)

    async def _send_again_to_another_log(self) -> None:
        known = await self._watch.known()
        while True:
            await self._watch.asked_again()
            if (now := await self._watch.known()) != known:
                known = now
                self._town.start(f"commands to {now}", self._send_lately_sent())

    async def _send_lately_sent(self) -> None:
        since = time.monotonic() - LATELY_SECONDS
        for at, branch, envelope, value in list(self._lately):
            if at >= since:
                await self._send(branch, envelope, value)

    async def _read(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=200,
            request_timeout_ms=REQUEST_MS,
        )
        try:
            await asyncio.wait_for(consumer.start(), SEND_SECONDS)
            consumer.assign([TopicPartition(branch_topic(branch), 0) for branch in KAFKA_BRANCHES])
            while True:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    for record in records:
                        self._take(record)
        finally:
            await _stopped(consumer)

    def _take(self, record: Any) -> None:
        """Begin with an order that is new to us. The topic may hold copies, and after a replay old ones."""
        with contextlib.suppress(MalformedEnvelope, ValueError):
            envelope = read_envelope(record.headers)
            if envelope.type == "order.dispatched" and self._town.acting and not self._town.closing:
                data = json.loads(record.value)
                name = f"command {data['branch']} {envelope.subject} {data['round']}"
                if self._town.first(name):
                    self._town.start(name, self._handle(data["branch"], envelope.subject, data))

    async def _handle(self, branch: str, subject: UUID, order: dict[str, Any]) -> None:
        chance = self._town.chance("command", str(subject), order["round"])
        if chance.random() < HELD_SHARE:
            await self._town.take_time(HELD_SECONDS)
        await self._command(branch, "order.accept", subject)
        await self._town.take_time(chance.uniform(0.2, 3))
        what = chance.random()
        if what < 0.03 and order["round"] == 1:
            await self._command(branch, "order.return", subject, {"reason_code": "RT_NOT_OURS"})
            return
        if what < 0.1:
            await self._command(branch, "order.progress", subject, {"note": "已派人上门"})
        await self._command(
            branch, "order.reply", subject, {"reply": reply_body(chance.choice(["satisfied", "not_called"]))}
        )

    async def _command(self, branch: str, kind: str, subject: UUID, data: Mapping[str, Any] | None = None) -> None:
        """Send one command until the broker has it; its `ce_id` makes every copy the same command."""
        envelope = Envelope(new_id(), f"/branch/{branch}", kind, subject, datetime.now(UTC))
        value = json.dumps({"branch": branch, "actor": "值班员", **(data or {})}, ensure_ascii=False).encode()
        if not self._town.closing:
            self._lately.append((time.monotonic(), branch, envelope, value))
            await self._send(branch, envelope, value)

    async def _send(self, branch: str, envelope: Envelope, value: bytes) -> None:
        subject = str(envelope.subject)
        while True:
            number = await self._journal.sent(f"branch_{branch}", "command", str(envelope.event_id), subject)
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    producer = await self._connected()
                    await producer.send_and_wait(
                        BRANCH_REPLIES, value, key=subject.encode(), headers=envelope.headers()
                    )
            except (KafkaError, OSError, TimeoutError) as silence:
                await self._journal.done(number, "unknown", code=type(silence).__name__)
                await self._discard()
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                await self._journal.done(number, "ok", ticket_id=subject)
                self.sent += 1
                return

    async def _connected(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._bootstrap,
                    acks="all",
                    enable_idempotence=False,
                    request_timeout_ms=REQUEST_MS,
                )
                try:
                    await producer.start()
                except BaseException:
                    await _stopped(producer)
                    raise
                self._producer = producer
            return self._producer

    async def _discard(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await _stopped(producer)


async def _stopped(client: AIOKafkaConsumer | AIOKafkaProducer) -> None:
    with contextlib.suppress(KafkaError, OSError, TimeoutError):
        await asyncio.wait_for(client.stop(), 3)
