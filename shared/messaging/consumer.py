"""The consumer: batches from the log into one transaction each, with versions, parking and dead letters.

What must stay true:
* offsets are stored with the effects, compared before they move: a batch commits only where nobody else moved on;
* what is applied, dropped or parked is decided in `batch.py`, by the events' versions;
* a record that cannot be applied goes to the dead letters (table and topic) in the same transaction that moves past it;
* too many bad records in a row stop every reader of the service: then the fault is ours, and readiness says so;
* what an operator paused is not read, but its lag is measured;
* another log (incarnation) means: from its beginning, and the publishers are asked for a replay.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Generic

from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError, OffsetOutOfRangeError

from shared.contracts.control import ReplayRequested
from shared.contracts.topics import BRANCH_REPLIES, CONTROL, INCARNATION, consumed_topics, topic_file
from shared.database.engine import Database, Transaction
from shared.database.leases import Leases
from shared.errors import DomainError, Poison, Transient
from shared.failpoints import reach
from shared.ids import new_id
from shared.messaging import dead_letters, inbox, pauses
from shared.messaging.application import Applier, OwnershipLost
from shared.messaging.broker import BrokerAddress
from shared.messaging.events import Record
from shared.messaging.inbox import Position
from shared.messaging.log_watch import LogWatch
from shared.messaging.pace import ON_THE_WAY, Pace
from shared.messaging.patience import within
from shared.messaging.projection import Projection, State
from shared.messaging.reader import Reader
from shared.telemetry import metrics
from shared.telemetry.tracing import begin_trace

log = logging.getLogger(__name__)

MAX_RECORDS = 500
IDLE_SECONDS = 2.0
SHARE_SECONDS = 1.0
LAG_SECONDS = 5.0
CAREFUL_FETCH_MS = 500
BACKOFF_SECONDS = 0.5
ANSWER_SECONDS = 30.0
DEAD_IN_A_ROW_LIMIT = 50
STALL_SECONDS = 60.0
# Stands for the log's identity where the log no longer holds the next record.
TRIMMED = ""
# A replay asks for a little more than it must; versions drop what was seen.
REPLAY_MARGIN = timedelta(seconds=60)


class Consumer(Generic[State]):
    """Reads the topics of one service until cancelled."""

    def __init__(
        self,
        service: str,
        projection: Projection[State],
        database: Database,
        leases: Leases,
        watch: LogWatch,
        broker: BrokerAddress,
        *,
        fetch_max_wait_ms: int,
        pace: Pace = ON_THE_WAY,
    ) -> None:
        self._service = service
        self._projection = projection
        self._database = database
        self._leases = leases
        self._watch = watch
        self._wait_ms = max(fetch_max_wait_ms, 200)
        self._pace = pace
        self._reader = Reader(broker, f"gongdan.{service}", fetch_max_wait_ms)
        self._topics = [topic for topic in consumed_topics(service) if topic != INCARNATION]
        self._partitions = {
            f"{topic.name}/{number}": TopicPartition(topic.name, number)
            for topic in topic_file().topics
            if topic.name in self._topics
            for number in range(topic.partitions)
        }
        self.applier = Applier(service, projection, database)
        self._positions: dict[TopicPartition, Position] = {}
        self._reading: set[TopicPartition] = set()
        self._pauses = pauses.Pauses()
        self._dead_in_a_row = 0
        self._progress_at = time.monotonic()
        self._rest_until = 0.0
        self.lag = 0
        self.failure: str | None = None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._measure())
            tasks.create_task(self._read())

    # ---- reading -------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        next_share = 0.0
        # What an error asks for is done inside the same `try`: broker and database may go away meanwhile.
        repair: Callable[[], Awaitable[None]] | None = None
        try:
            while True:
                try:
                    if repair is not None:
                        now, repair = repair, None
                        await now()
                    if time.monotonic() >= next_share:
                        await self._take_share()
                        next_share = time.monotonic() + SHARE_SECONDS
                    if not self._reading or self.failure is not None:
                        await asyncio.sleep(BACKOFF_SECONDS)
                        continue
                    await self._take_batch()
                except OffsetOutOfRangeError as error:
                    repair = partial(self._note_trimmed, set(error.args[0]))
                    next_share = 0.0
                except UnicodeDecodeError:
                    repair = self._step_over_unreadable
                except OwnershipLost:
                    log.info("a partition moved to another process")
                    self._positions.clear()
                    self._reading.clear()
                    next_share = 0.0
                except (KafkaError, IllegalStateError, Transient, OSError, TimeoutError) as error:
                    log.info("consumer waits", extra={"error": type(error).__name__})
                    repair = self._discard
                    next_share = 0.0
                    await asyncio.sleep(BACKOFF_SECONDS)
        finally:
            await self._discard()

    async def _take_share(self) -> None:
        """Agree with the other processes who reads what, and notice another log."""
        incarnation = await self._watch.known()
        if self._reader.outdated:
            await self._discard()
        mine = {self._partitions[name] for name in await self._leases.share("consumer", self._partitions)}
        await self._look_for_pauses()
        if mine != set(self._positions) or self._unpaused(mine) != self._reading or self._reader.client is None:
            await self._assign(mine, incarnation)
        void = [partition for partition, at in self._positions.items() if at.incarnation != incarnation]
        if void:
            trimmed = all(self._positions[partition].incarnation == TRIMMED for partition in void)
            await self._start_again(void, "the log lost the next record" if trimmed else "the log is another one")

    async def _note_trimmed(self, partitions: set[TopicPartition]) -> None:
        """Trimmed or made anew: the watch must have looked before anybody is asked for a replay."""
        await self._watch.asked_again()
        for partition in self._positions.keys() & partitions:
            self._positions[partition] = self._positions[partition]._replace(incarnation=TRIMMED)

    async def _look_for_pauses(self) -> None:
        await self._pauses.look(self._database)
        if self.failure is not None and self._pauses.stop is None:
            self._dead_in_a_row = 0
            # The rest of the batch that was stopped was never applied: assigned anew, it is read again.
            self._reading.clear()
        self.failure = self._pauses.stop

    def _unpaused(self, partitions: Iterable[TopicPartition]) -> set[TopicPartition]:
        return {partition for partition in partitions if not self._pauses.hold(partition.topic)}

    async def _assign(self, mine: set[TopicPartition], incarnation: str) -> None:
        self._reading = self._unpaused(mine)
        if not mine:
            self._positions = {}
            return
        await self._reader.connected()
        stored = await self._database.read(inbox.positions)
        unknown = [partition for partition in mine if tuple(partition) not in stored]
        self._positions = {partition: stored[tuple(partition)] for partition in mine if partition not in unknown}
        # With nothing to read the old assignment stays, unread: the next one takes its place.
        if self._reading:
            await self._reader.assign(self._reading, self._offsets())
        if unknown:
            await self._start_again(unknown, "first start")
        log.info("partitions assigned", extra={"count": len(mine)})

    async def _start_again(self, partitions: list[TopicPartition], reason: str) -> None:
        """Read these partitions from the beginning of what is there, and ask the publishers for what is not."""
        consumer = await self._reader.connected()
        incarnation = await self._watch.known()
        beginnings = await within(ANSWER_SECONDS, consumer.beginning_offsets(partitions))
        await self._projection.on_new_log(self._database, self._is_alive)
        applied = {each: at.record_at if (at := self._positions.get(each)) else None for each in partitions}
        since: dict[str, datetime | None] = {}
        for partition, moment in applied.items():
            enough = moment - REPLAY_MARGIN if moment is not None else None
            earlier = since.get(partition.topic, enough)
            since[partition.topic] = None if enough is None or earlier is None else min(earlier, enough)
        fresh = {each: Position(beginnings[each], incarnation, applied[each]) for each in partitions}

        async def store(transaction: Transaction) -> None:
            for partition, position in fresh.items():
                await inbox.set_position(transaction.connection, partition.topic, partition.partition, position)
            now = await transaction.now()
            for topic in sorted(set(since) - {CONTROL, BRANCH_REPLIES}):
                request = ReplayRequested(topic=topic, since=since[topic], requested_by=self._service, reason=reason)
                transaction.publish(request, subject=new_id(), version=1, time=now)
            reach("consumer.start_written")

        await self._database.write(store)
        reach("consumer.started")
        self._positions |= fresh
        self._reader.seek(self._offsets())
        log.warning("reading from the beginning", extra={"partitions": len(partitions), "error": reason})

    async def _take_batch(self) -> None:
        records = await self._gathered()
        self._reader.slow_down(time.monotonic() > self._rest_until + IDLE_SECONDS and not records)
        if not records:
            self._progress_at = time.monotonic() if self.lag == 0 else self._progress_at
            return
        reach("consumer.fetched")
        began = time.monotonic()
        await self._store(records)
        self._progress_at = time.monotonic()
        self._rest_until = self._progress_at + self._pace.rest_after(self._progress_at - began, len(records))

    async def _gathered(self) -> list[Record]:
        """What there is when the rest after the last batch is over."""
        gathering = self._reader.gather(first_wait_ms=self._wait_ms, most=MAX_RECORDS, rest_until=self._rest_until)
        try:
            return await within(ANSWER_SECONDS, gathering)
        except Exception:
            # The client may have moved past what it gave, even where it gave nothing to us; our positions have not.
            self._reader.seek(self._offsets())
            raise

    def _offsets(self) -> dict[TopicPartition, int]:
        """From where on each partition is read."""
        return {each: self._positions[each].next_offset for each in self._reading & self._positions.keys()}

    # ---- applying ------------------------------------------------------------------------------------------------

    async def _store(self, records: Sequence[Record]) -> None:
        """Apply a batch in one transaction; if a record in it is bad, each half by itself, and so on down to that one:
        the others cost a few transactions more, not one each."""
        try:
            await self._apply(records)
            self._dead_in_a_row = 0
            return
        except (Transient, OwnershipLost):
            raise
        except Exception as error:
            if len(records) == 1:
                await self._bury(records[0], error)
                return
            log.info("a batch is taken in halves", extra={"error": type(error).__name__})
        middle = len(records) // 2
        for half in (records[:middle], records[middle:]):
            reach("consumer.next_record")
            if self.failure is None:
                await self._store(half)

    async def _apply(self, records: Sequence[Record]) -> None:
        events = [self.applier.decode(record) for record in records]
        begin_trace(events[0].envelope.traceparent)
        await self.applier.answer_replays(events, self._is_alive)
        async with self._database.transaction() as transaction:
            moves = self._moves(records)
            await self.applier.apply(transaction, events, moves)
            reach("consumer.effects_written")
        reach("consumer.committed")
        for (topic, number), (_, after) in moves.items():
            self._positions[TopicPartition(topic, number)] = after

    def _is_alive(self) -> None:
        self._progress_at = time.monotonic()

    def _moves(self, records: Sequence[Record]) -> dict[tuple[str, int], tuple[Position, Position]]:
        last: dict[TopicPartition, Record] = {}
        for record in records:
            last[TopicPartition(record.topic, record.partition)] = record
        moves: dict[tuple[str, int], tuple[Position, Position]] = {}
        for partition, record in last.items():
            before = self._positions.get(partition)
            if before is None:
                raise OwnershipLost
            after = Position(record.offset + 1, before.incarnation, inbox.record_time(record) or before.record_at)
            moves[partition.topic, partition.partition] = (before, after)
        return moves

    async def _bury(self, record: Record, error: Exception) -> None:
        """Put a record that cannot be applied into the dead letters, and move past it."""
        reason = dead_letters.reason_of(error)
        log.error(
            "dead letter",
            extra={"topic": record.topic, "partition": record.partition, "offset": record.offset, "error": reason},
            exc_info=None if isinstance(error, Poison | DomainError) else error,
        )
        moves = self._moves([record])
        # Commands come from outside: garbage there says nothing about us.
        dead_in_a_row = self._dead_in_a_row + (record.topic != BRANCH_REPLIES)
        failure = None
        if dead_in_a_row >= DEAD_IN_A_ROW_LIMIT:
            failure = f"{dead_in_a_row} records in a row could not be applied; reading stopped"

        async def store(transaction: Transaction, record: Record = record) -> None:
            await dead_letters.bury(transaction, self._service, record, reason)
            if failure is not None:
                await pauses.pause(transaction, pauses.ALL, actor=pauses.STOPPED_BY, reason=failure)
            if not await inbox.save(transaction.connection, {}, moves):
                raise OwnershipLost
            reach("consumer.burial_written")

        try:
            await self._database.write(store)
        except (Transient, OwnershipLost):
            raise
        except Exception as fault:
            log.error("a dead letter cannot be kept whole", extra={"error": type(fault).__name__}, exc_info=fault)
            await self._database.write(lambda transaction: store(transaction, dead_letters.bare(record)))
        reach("consumer.buried")
        for (topic, number), (_, after) in moves.items():
            self._positions[TopicPartition(topic, number)] = after
        metrics.events_dead.labels(record.topic).inc()
        self._dead_in_a_row, self.failure = dead_in_a_row, failure
        if failure is not None:
            log.critical("reading stopped", extra={"error": failure})

    async def _step_over_unreadable(self) -> None:
        """aiokafka cannot read a header whose name is not UTF-8 and stands before that record for ever: read one record
        at a time up to it, bury what can be said of it, and go on behind it."""
        consumer = await self._reader.connected()
        ends = await self._watch.ends(list(self._reading))
        for partition, end in ends.items():
            if end <= self._positions[partition].next_offset:
                continue
            # This one alone: the client fetches nothing while records of another lie there.
            await self._reader.assign({partition}, {partition: self._positions[partition].next_offset})
            for _ in range(MAX_RECORDS):
                try:
                    careful = consumer.getmany(partition, timeout_ms=CAREFUL_FETCH_MS, max_records=1)
                    fetched = await within(ANSWER_SECONDS, careful)
                except UnicodeDecodeError:
                    offset = await within(ANSWER_SECONDS, consumer.position(partition))
                    unreadable = Record(partition.topic, partition.partition, offset, None, (), None)
                    await self._bury(unreadable, Poison("the name of a header is not UTF-8; the record cannot be read"))
                    consumer.seek(partition, offset + 1)
                    continue
                if fetched:
                    await self._store([Record.read(raw) for raw in fetched[partition]])
                if not fetched or self._positions[partition].next_offset >= end:
                    break
        await self._reader.assign(self._reading, self._offsets())

    # ---- figures -------------------------------------------------------------------------------------------------

    async def _measure(self) -> None:
        """Lag by topic, from the log's ends and the stored positions; and the watchdog on progress."""
        while True:
            await asyncio.sleep(LAG_SECONDS)
            positions = dict(self._positions)
            await self._show_positions(positions)
            ends = await self._watch.ends(list(positions))
            by_topic: dict[str, int] = defaultdict(int)
            for partition, end in ends.items():
                by_topic[partition.topic] += max(0, end - positions[partition].next_offset)
            self.lag = sum(behind for topic, behind in by_topic.items() if not self._pauses.hold(topic))
            for topic, behind in by_topic.items():
                metrics.consumer_lag.labels(topic).set(behind)
            if self.lag == 0 or self.failure is not None or not self._watch.reachable:
                self._progress_at = time.monotonic()
            elif time.monotonic() - self._progress_at > STALL_SECONDS:
                raise RuntimeError(f"no progress for {STALL_SECONDS:.0f} s with {self.lag} records waiting")

    async def _show_positions(self, positions: dict[TopicPartition, Position]) -> None:
        """Commit to Kafka too, as the group `gongdan.<service>`: for people and lag monitors, never read by us."""
        offsets = {each: position.next_offset for each, position in positions.items() if each in self._reading}
        if self._reader.client is None or not offsets:
            return
        try:
            await within(LAG_SECONDS, self._reader.client.commit(offsets))
        except (KafkaError, IllegalStateError, TimeoutError, OSError):
            log.debug("offsets not shown to Kafka this time")

    async def _discard(self) -> None:
        self._positions.clear()
        self._reading.clear()
        await self._reader.discard()
