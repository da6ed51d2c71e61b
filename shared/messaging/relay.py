"""The relay: publishes every unpublished outbox row in id order, one leader a service.

What must stay true:
* a row is marked only after the broker's acknowledgement (`acks=all`), so a crash repeats and never loses;
* a record is stored only behind the earlier records of the same subject and topic (`shipment.py`), so a failed publish
  holds back that subject's later events; it holds back other events of its partition only for as long as that fails;
* the producer is not idempotent on purpose: aiokafka's idempotent producer waits without end while the broker is away.
  Repeats are dropped by the consumers' versions.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from sqlalchemy import text

from shared.contracts.envelope import SOURCE_PREFIX
from shared.database.engine import Database
from shared.database.leases import Leases
from shared.errors import Transient
from shared.failpoints import reach
from shared.messaging.broker import BrokerAddress
from shared.messaging.outbox import (
    Row,
    backlog,
    keep_partitions,
    mark_published,
    purge,
    unpublished,
    utc_day,
)
from shared.messaging.patience import within
from shared.messaging.shipment import WAVE_TIMEOUT_SECONDS, Shipment
from shared.telemetry import metrics

log = logging.getLogger(__name__)

BATCH = 500
IDLE_SECONDS = 0.2
# After a pass that was not full, so that the next one holds more: what comes after a longer silence leaves at once.
REST_SECONDS = 0.04
BACKOFF_SECONDS = 1.0
REQUEST_TIMEOUT_MS = 5_000
# Well below a broker's usual limit of 1 MiB. A larger record goes alone, and the broker says whether it is too large.
BATCH_BYTES = 256 * 1024
STOP_SECONDS = 3.0
HOUSEKEEPING_SECONDS = 5.0
PARTITIONS_SECONDS = 3600.0
BACKLOG_COUNT_BOUND = 300_000
# For so long a topic that takes no records, and a subject with a record too large, are left out: a batch full of theirs
# would keep all others from ever being read.
TOPIC_ASIDE_SECONDS = 3.0
SUBJECT_ASIDE_SECONDS = 60.0


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
                found = await self._pass()
                if found == BATCH:
                    continue
            except (KafkaError, TimeoutError, OSError, Transient) as error:
                log.info("relay waits", extra={"error": type(error).__name__})
                await self._discard()
                await asyncio.sleep(BACKOFF_SECONDS)
                continue
            if found:
                await asyncio.sleep(REST_SECONDS)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), IDLE_SECONDS)

    async def _pass(self) -> int:
        """Publish one batch; the number of rows found. Raises when the broker or the database is away."""
        aside = _still(self._topics_aside), _still(self._subjects_aside)
        rows = await self._database.read(lambda connection: unpublished(connection, BATCH, *aside))
        if not rows:
            return 0
        reach("relay.read")
        sent, failure = await self._send(rows)
        reach("relay.acknowledged")
        if sent:
            async with self._database.transaction() as transaction:
                await mark_published(transaction.connection, sent)
                reach("relay.mark_written")
            reach("relay.marked")
        if failure is not None and not sent:
            raise failure
        return len(rows)

    async def _send(self, rows: Sequence[Row]) -> tuple[list[Row], BaseException | None]:
        """What was acknowledged, and the last failure."""
        shipment = Shipment(await self._connected(), self._source, rows)
        await shipment.send()
        now = time.monotonic()
        self._subjects_aside |= dict.fromkeys(shipment.too_large, now + SUBJECT_ASIDE_SECONDS)
        if shipment.sent or len(rows) == BATCH:
            # With nothing sent and little to send it is the broker that is away, and not these topics.
            self._topics_aside |= dict.fromkeys(shipment.refusing, now + TOPIC_ASIDE_SECONDS)
        return shipment.sent, shipment.failure

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                **self._broker.options(),
                acks="all",
                enable_idempotence=False,
                request_timeout_ms=REQUEST_TIMEOUT_MS,
                retry_backoff_ms=200,
                max_batch_size=BATCH_BYTES,
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
