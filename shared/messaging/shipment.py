"""Rows of the outbox on their way to the broker: record batches, one at a time for each partition.

What must stay true:
* the broker stores a record batch whole or not at all, and in its order, so a subject's events may share one;
* a batch leaves only after the one before it in its partition was acknowledged; when that failed, for whatever reason
  but a record too large, nothing more goes to that partition this time;
* a record too large for the broker holds back the later events of its own subject, and nobody else's;
* a record's partition is the one that Kafka's clients choose for its key, so a subject's events all stand in one.

One future a batch: sent record by record, each with a future of its own, a record cost 51 µs of CPU, and now 16.
"""

import asyncio
import logging
import struct
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from shared.contracts.envelope import Envelope
from shared.failpoints import reach
from shared.messaging.inbox import headers_in
from shared.messaging.outbox import Row
from shared.messaging.patience import CancelledWithin
from shared.telemetry import metrics

log = logging.getLogger(__name__)

WAVE_TIMEOUT_SECONDS = 15.0
TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)


Place = tuple[str, int]
"""Topic and partition."""


class Shipment:
    """One pass. After `send`, what was `sent`, which topics are `refusing`, whose records are `too_large`, and the last
    `failure` of any other kind."""

    def __init__(self, producer: AIOKafkaProducer, source: str, rows: Sequence[Row]) -> None:
        self._producer = producer
        self._source = source
        self._lines: dict[Place, deque[Row]] = {}
        self._rows = rows
        self._most: dict[Place, int] = {}
        self.sent: list[Row] = []
        self.refusing: set[str] = set()
        self.too_large: set[UUID] = set()
        self.failure: BaseException | None = None

    async def send(self) -> None:
        """Send in waves, each with the next batch of every partition. Raises `TimeoutError` when one takes too long."""
        async with asyncio.timeout(WAVE_TIMEOUT_SECONDS):
            await self._line_up()
        while self._lines:
            async with asyncio.timeout(WAVE_TIMEOUT_SECONDS):
                wave = [(place, *self._batch(place)) for place in list(self._lines)]
                wave = [each for each in wave if each[1]]
                futures = [await self._hand_over(place, batch) for place, _, batch in wave]
                reach("relay.handed_over")
                results = await asyncio.gather(*futures, return_exceptions=True)
            for (place, rows, _), result in zip(wave, results, strict=True):
                self._note(place, rows, result)

    async def _line_up(self) -> None:
        """By partition. A topic that takes no records at all is asked once, and left out."""
        by_topic: dict[str, list[Row]] = defaultdict(list)
        for row in self._rows:
            by_topic[row.topic].append(row)
        asked = (partitions_of(self._producer, topic) for topic in by_topic)
        found = await asyncio.gather(*asked, return_exceptions=True)
        for (topic, rows), partitions in zip(by_topic.items(), found, strict=True):
            if isinstance(partitions, BaseException):
                if not isinstance(partitions, KafkaError | asyncio.CancelledError):
                    raise partitions
                self._refused(topic, partitions)
                continue
            for row in rows:
                self._lines.setdefault((topic, _partition(row.subject, partitions)), deque()).append(row)

    def _batch(self, place: Place) -> tuple[list[Row], Any]:
        """The next rows of a partition as one record batch; none when there are none left to send."""
        line, most = self._lines[place], self._most.get(place, len(self._rows))
        rows: list[Row] = []
        batch = self._producer.create_batch()
        while line and len(rows) < most:
            row = line[0]
            if row.subject not in self.too_large:
                moment = int(row.read_at.timestamp() * 1000)
                key = str(row.subject).encode()
                if batch.append(timestamp=moment, key=key, value=row.payload, headers=self._headers(row)) is None:
                    break  # full; the first one fits always
                rows.append(row)
            line.popleft()
        if not line and not rows:
            del self._lines[place]
        return rows, batch

    def _headers(self, row: Row) -> list[tuple[str, bytes]]:
        if row.headers is not None:
            return list(headers_in(row.headers))
        return Envelope(
            event_id=row.event_id,
            source=self._source,
            type=row.type,
            subject=row.subject,
            time=row.time,
            sequence=row.version,
            traceparent=row.traceparent,
        ).headers()

    async def _hand_over(self, place: Place, batch: Any) -> asyncio.Future[Any]:
        """The future of the batch's acknowledgement."""
        topic, partition = place
        try:
            future: asyncio.Future[Any] = await self._producer.send_batch(batch, topic, partition=partition)
        except KafkaError as error:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
        return future

    def _note(self, place: Place, rows: list[Row], result: Any) -> None:
        topic, line = place[0], self._lines[place]
        if not isinstance(result, BaseException):
            self.sent += rows
            metrics.outbox_published.labels(topic).inc(len(rows))
        elif not isinstance(result, TOO_LARGE):
            self._refused(topic, result)
            line.clear()
        elif len(rows) > 1:
            # One of them, or all together: again in smaller batches, down to the one that will never pass.
            self._most[place] = len(rows) // 2
            line.extendleft(reversed(rows))
        else:
            log.error("too large for the broker", extra={"topic": topic, "event_id": rows[0].event_id})
            self.too_large.add(rows[0].subject)
        if not line:
            del self._lines[place]

    def _refused(self, topic: str, error: BaseException) -> None:
        self.failure = CancelledWithin() if isinstance(error, asyncio.CancelledError) else error
        self.refusing.add(topic)


async def partitions_of(producer: AIOKafkaProducer, topic: str) -> list[int]:
    """The numbers of a topic's partitions. Raises `KafkaError` when it is not there for us."""
    return sorted(await producer.partitions_for(topic))


def _partition(subject: UUID, partitions: list[int]) -> int:
    if len(partitions) == 1:
        return partitions[0]
    return partitions[(murmur2(str(subject).encode()) & 0x7FFFFFFF) % len(partitions)]


def murmur2(data: bytes) -> int:
    """The hash by which Kafka's clients choose a partition: as aiokafka's, which takes 6 µs for a UUID, in 3."""
    length = len(data)
    whole = length & ~3
    value = 0x9747B28C ^ length
    for word in struct.unpack(f"<{whole // 4}I", data[:whole]):
        mixed = word * 0x5BD1E995 & 0xFFFFFFFF
        mixed = (mixed ^ mixed >> 24) * 0x5BD1E995
        value = (value * 0x5BD1E995 ^ mixed) & 0xFFFFFFFF
    if rest := data[whole:]:
        value = (value ^ int.from_bytes(rest, "little")) * 0x5BD1E995 & 0xFFFFFFFF
    value = (value ^ value >> 13) * 0x5BD1E995 & 0xFFFFFFFF
    return value ^ value >> 15
