"""Which log are we reading? A small reader that asks again and again.

The topic creator (or the embedded broker, each time it starts) writes one record into `gongdan.incarnation`: the log's
identity. Another identity means that every stored offset is void. Reading that record is also the proof that the
broker is reachable, which readiness reports.
"""

import asyncio
import logging
import time

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.contracts.topics import INCARNATION
from shared.messaging.broker import BrokerAddress, reason_of
from shared.messaging.patience import within
from shared.telemetry import metrics

log = logging.getLogger(__name__)

ASK_SECONDS = 2.0
ANSWER_SECONDS = 5.0
UNREACHABLE_SECONDS = 8.0


class LogWatch:
    """Holds the incarnation last read; `ends` are the log's ends for the partitions asked about."""

    def __init__(self, broker: BrokerAddress) -> None:
        self._broker = broker
        self._consumer: AIOKafkaConsumer | None = None
        self._answered = -UNREACHABLE_SECONDS
        self._heard = asyncio.Event()
        self.incarnation: str | None = None
        self.refused: str | None = None
        """Why the broker will not have us (password, certificate, rights), while that is so."""

    @property
    def reachable(self) -> bool:
        return time.monotonic() - self._answered < UNREACHABLE_SECONDS

    async def known(self) -> str:
        """The incarnation, waiting for the first answer."""
        while self.incarnation is None:
            await self._heard.wait()
        return self.incarnation

    async def asked_again(self) -> None:
        """Wait until the broker has named its incarnation once more."""
        since = time.monotonic()
        while self._answered < since:
            self._heard.clear()
            await self._heard.wait()

    async def ends(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """The next offset that will be written, by partition; empty while the broker is away."""
        if self._consumer is None or not partitions:
            return {}
        try:
            return dict(await within(ANSWER_SECONDS, self._consumer.end_offsets(partitions)))
        except (KafkaError, TimeoutError, OSError):
            return {}

    async def run(self) -> None:
        """Ask until cancelled."""
        try:
            while True:
                try:
                    await self._ask()
                except (KafkaError, TimeoutError, OSError) as error:
                    log.info("broker does not answer", extra={"error": type(error).__name__})
                    await self._discard()
                    await self._ask_why(error)
                metrics.broker_reachable.set(1 if self.reachable else 0)
                await asyncio.sleep(ASK_SECONDS if self.incarnation or self.refused else 0.2)
        finally:
            await self._discard()

    async def _ask(self) -> None:
        partition = TopicPartition(INCARNATION, 0)
        if self._consumer is None:
            consumer = AIOKafkaConsumer(
                **self._broker.options(),
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_max_wait_ms=500,
                request_timeout_ms=int(ANSWER_SECONDS * 1000),
            )
            self._consumer = consumer
            await within(ANSWER_SECONDS, consumer.start())
            consumer.assign([partition])
        self._consumer.seek(partition, 0)
        record = await within(ANSWER_SECONDS, self._consumer.getone(partition))
        self._answered = time.monotonic()
        self.refused = None
        incarnation = (record.value or b"").decode(errors="replace")
        if incarnation != self.incarnation:
            if self.incarnation is not None:
                metrics.log_changes.inc()
                log.warning("the log is another one", extra={"incarnation": incarnation})
            self.incarnation = incarnation
        self._heard.set()

    async def _ask_why(self, error: Exception) -> None:
        before, self.refused = self.refused, reason_of(error) or await self._broker.refusal()
        if self.refused is not None and self.refused != before:
            log.warning("the broker and we do not agree", extra={"error": self.refused})

    async def _discard(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            try:
                await within(ANSWER_SECONDS, consumer.stop())
            except (KafkaError, TimeoutError, OSError):
                log.debug("a reader did not stop in time")
