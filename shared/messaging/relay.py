"""The relay: publishes every unpublished outbox row in id order, one leader a service.

What must stay true:
* a row is marked only after the broker's acknowledgement (`acks=all`), so a crash repeats and never loses;
* a record leaves only after the earlier records of the same subject and topic were acknowledged, so a failed publish
  holds back that subject's later events and nobody else's;
* the producer is not idempotent on purpose: aiokafka's idempotent producer waits without end while the broker is away.
  Repeats are dropped by the consumers' versions.
"""

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from typing import Any
from uuid import UUID

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from sqlalchemy import text

from shared.contracts.envelope import SOURCE_PREFIX, Envelope
from shared.database.engine import Database
from shared.database.leases import Leases
from shared.errors import Transient
from shared.failpoints import reach
from shared.messaging.broker import BrokerAddress
from shared.messaging.inbox import headers_in
from shared.messaging.outbox import backlog, keep_partitions, purge, utc_day
from shared.messaging.patience import CancelledWithin, within
from shared.telemetry import metrics

log = logging.getLogger(__name__)

BATCH = 500
IDLE_SECONDS = 0.2
# After a wake-up, time for more to come, so that one pass sends them together.
GATHER_SECONDS = 0.01
BACKOFF_SECONDS = 1.0
REQUEST_TIMEOUT_MS = 5_000
WAVE_TIMEOUT_SECONDS = 15.0
STOP_SECONDS = 3.0
# The broker's own limit decides what is too large; ours only has to be above it.
MAX_REQUEST_BYTES = 16 * 1024 * 1024
HOUSEKEEPING_SECONDS = 5.0
PARTITIONS_SECONDS = 3600.0
BACKLOG_COUNT_BOUND = 300_000
# For so long a topic that takes no records, and a subject with a record too large, are left out: a batch full of theirs
# would keep all others from ever being read.
TOPIC_ASIDE_SECONDS = 3.0
SUBJECT_ASIDE_SECONDS = 60.0

_UNPUBLISHED = text(
    "SELECT id, created_at, topic, subject, version, event_id, type, time, traceparent, headers, payload,"
    " clock_timestamp() AS read_at FROM outbox WHERE published_at IS NULL"
    " AND topic <> ALL(CAST(:topics AS text[])) AND subject <> ALL(CAST(:subjects AS uuid[])) ORDER BY id LIMIT :batch"
)
_MARK = text(
    "UPDATE outbox SET published_at = clock_timestamp() WHERE id = ANY(:ids) AND created_at BETWEEN :first AND :last"
)


class Relay:
    """Publishes the outbox of one service until cancelled."""

    def __init__(
        self, service: str, database: Database, leases: Leases, broker: BrokerAddress, *, retention_days: int
    ) -> None:
        self._source = f"{SOURCE_PREFIX}{service}"
        self._database = database
        self._leases = leases
        self._broker = broker
        self._retention_days = retention_days
        self._wake = asyncio.Event()
        self._producer: AIOKafkaProducer | None = None
        self._topics_aside: dict[str, float] = {}
        self._subjects_aside: dict[UUID, float] = {}
        self.waiting = 0
        """Events not yet published, as last counted."""

    def wake(self) -> None:
        """There is something new in the outbox."""
        self._wake.set()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._publish_for_ever())
                tasks.create_task(self._keep_house())
        finally:
            await self._discard()

    async def _publish_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        leading_until = 0.0
        while True:
            self._wake.clear()
            try:
                if loop.time() >= leading_until:
                    if not await self._leases.leads("relay"):
                        await asyncio.sleep(BACKOFF_SECONDS)
                        continue
                    leading_until = loop.time() + 1.0
                if await self._pass() == BATCH:
                    continue
            except (KafkaError, TimeoutError, OSError, Transient) as error:
                log.info("relay waits", extra={"error": type(error).__name__})
                await self._discard()
                await asyncio.sleep(BACKOFF_SECONDS)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), IDLE_SECONDS)
                await asyncio.sleep(GATHER_SECONDS)

    async def _pass(self) -> int:
        """Publish one batch; the number of rows found. Raises when the broker or the database is away."""

        async def unpublished(connection: Any) -> list[Any]:
            aside = {"topics": _still(self._topics_aside), "subjects": _still(self._subjects_aside)}
            return list((await connection.execute(_UNPUBLISHED, {"batch": BATCH, **aside})).all())

        rows = await self._database.read(unpublished)
        if not rows:
            return 0
        reach("relay.read")
        sent, failure = await self._send(rows)
        reach("relay.acknowledged")
        if sent:
            ids = [row.id for row in sent]
            moments = [row.created_at for row in sent]
            async with self._database.transaction() as transaction:
                await transaction.connection.execute(_MARK, {"ids": ids, "first": min(moments), "last": max(moments)})
                reach("relay.mark_written")
            reach("relay.marked")
        if failure is not None and not sent:
            raise failure
        return len(rows)

    async def _send(self, rows: list[Any]) -> tuple[list[Any], BaseException | None]:
        """Send in waves: the n-th wave holds the n-th row of each subject and topic."""
        waves: dict[int, list[Any]] = defaultdict(list)
        depth: dict[tuple[str, UUID], int] = defaultdict(int)
        for row in rows:
            key = (row.topic, row.subject)
            waves[depth[key]].append(row)
            depth[key] += 1
        producer = await self._connected()
        sent: list[Any] = []
        held: set[tuple[str, UUID]] = set()
        refusing: set[str] = set()
        closed: set[str] = set()
        failure: BaseException | None = None
        now = time.monotonic()
        for number in sorted(waves):
            wave = [row for row in waves[number] if (row.topic, row.subject) not in held]
            async with asyncio.timeout(WAVE_TIMEOUT_SECONDS):
                futures = [await self._hand_over(producer, row, closed) for row in wave]
                reach("relay.handed_over")
                results = await asyncio.gather(*futures, return_exceptions=True)
            for row, result in zip(wave, results, strict=True):
                if isinstance(result, BaseException):
                    held.add((row.topic, row.subject))
                    if isinstance(result, MessageSizeTooLargeError):
                        # It will never pass; it holds back its own subject, and nobody else's.
                        log.error("too large for the broker", extra={"topic": row.topic, "event_id": row.event_id})
                        self._subjects_aside[row.subject] = now + SUBJECT_ASIDE_SECONDS
                    else:
                        failure = CancelledWithin() if isinstance(result, asyncio.CancelledError) else result
                        refusing.add(row.topic)
                else:
                    sent.append(row)
                    metrics.outbox_published.labels(row.topic).inc()
        if sent or len(rows) == BATCH:
            # With nothing sent and little to send it is the broker that is away, and not these topics.
            self._topics_aside |= dict.fromkeys(refusing, now + TOPIC_ASIDE_SECONDS)
        return sent, failure

    async def _hand_over(self, producer: AIOKafkaProducer, row: Any, closed: set[str]) -> asyncio.Future[Any]:
        """The future of the record's acknowledgement. A topic that took one record not at all (`closed`) is not asked
        again in this pass, so that it cannot use up the others' time."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if row.topic in closed:
            future.set_exception(KafkaError(f"{row.topic} does not take records"))
            return future
        try:
            return await self._send_one(producer, row)
        except KafkaError as error:
            if not isinstance(error, MessageSizeTooLargeError):
                closed.add(row.topic)
            future.set_exception(error)
            return future

    async def _send_one(self, producer: AIOKafkaProducer, row: Any) -> asyncio.Future[Any]:
        if row.headers is not None:
            headers = list(headers_in(bytes(row.headers)))
        else:
            headers = Envelope(
                event_id=row.event_id,
                source=self._source,
                type=row.type,
                subject=row.subject,
                time=row.time,
                sequence=row.version,
                traceparent=row.traceparent,
            ).headers()
        future: asyncio.Future[Any] = await producer.send(
            row.topic,
            value=bytes(row.payload),
            key=str(row.subject).encode(),
            headers=headers,
            # The database's time, never later than `published_at`: a replay "since" a record's time misses nothing.
            timestamp_ms=int(row.read_at.timestamp() * 1000),
        )
        return future

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                **self._broker.options(),
                acks="all",
                enable_idempotence=False,
                request_timeout_ms=REQUEST_TIMEOUT_MS,
                retry_backoff_ms=200,
                max_batch_size=256 * 1024,
                max_request_size=MAX_REQUEST_BYTES,
                linger_ms=0,
            )
            try:
                await within(WAVE_TIMEOUT_SECONDS, producer.start())
            except BaseException:
                await _stop(producer)
                raise
            self._producer = producer
        return self._producer

    async def _discard(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await _stop(producer)

    async def _keep_house(self) -> None:
        """The daily partitions, and what may be forgotten."""
        loop = asyncio.get_running_loop()
        next_partitions = loop.time() + PARTITIONS_SECONDS
        while True:
            try:
                if loop.time() >= next_partitions:
                    await self.keep_partitions()
                    await purge(self._database)
                    next_partitions = loop.time() + PARTITIONS_SECONDS
            except Transient:
                log.info("housekeeping waits for the database")
            await asyncio.sleep(HOUSEKEEPING_SECONDS)

    async def watch_backlog(self) -> None:
        """Count what waits, until cancelled; for the role `api` too, which refuses work when it is too much."""
        while True:
            try:
                await self.count_backlog()
            except Transient:
                log.info("outbox figures wait for the database")
            await asyncio.sleep(HOUSEKEEPING_SECONDS)

    async def count_backlog(self) -> None:
        figures = await self._database.read(lambda connection: backlog(connection, BACKLOG_COUNT_BOUND))
        self.waiting = figures.waiting
        metrics.outbox_backlog.set(figures.waiting)
        metrics.outbox_oldest_seconds.set(figures.oldest_seconds)

    async def keep_partitions(self) -> None:
        async with self._database.transaction() as transaction:
            await transaction.connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('outbox partitions'))"))
            day = utc_day(await transaction.now())
            await keep_partitions(transaction.connection, day, self._retention_days)
            reach("relay.partitions_made")


def _still(aside: dict[Any, float]) -> list[Any]:
    """Those whose time is not over; the others are forgotten."""
    now = time.monotonic()
    for each in [each for each, until in aside.items() if until <= now]:
        del aside[each]
    return list(aside)


async def _stop(producer: AIOKafkaProducer) -> None:
    try:
        await within(STOP_SECONDS, producer.stop())
    except (KafkaError, TimeoutError, OSError):
        log.info("a producer did not stop in time and was left behind")
