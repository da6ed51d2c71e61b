"""Relay and consumer on a real broker and a real database: order, versions, parking, dead letters, restarts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from sqlalchemy import text

from services.review.tables import plumbing
from shared.contracts.envelope import Envelope
from shared.contracts.intake import TicketWithdrawn
from shared.contracts.sla import IncidentJoined, Problem
from shared.contracts.topics import INTAKE, SLA
from shared.database.engine import Database, Transaction
from shared.database.leases import Leases
from shared.errors import NotYet, Poison
from shared.ids import new_id
from shared.messaging.consumer import Consumer
from shared.messaging.events import Event
from shared.messaging.log_watch import LogWatch
from shared.messaging.relay import Relay
from tests.support.parts import Broker, Databases

NOW = datetime(2026, 11, 22, tzinfo=UTC)
PATIENCE_SECONDS = 30.0
OF_THESE = "SELECT count(*) FROM effects WHERE subject = ANY(:ids)"


@dataclass
class Applied:
    events: list[Event] = field(default_factory=list)


class Recorder:
    """A projection that stores each effect, waits for a ticket's first event, and cannot stomach one reason."""

    types = frozenset({TicketWithdrawn.TYPE, IncidentJoined.TYPE})

    async def load(self, transaction: Transaction, events: Sequence[Event]) -> Applied:
        ids = [event.subject for event in events]
        rows = await transaction.connection.execute(
            text("SELECT DISTINCT subject FROM effects WHERE subject = ANY(:ids)"), {"ids": ids}
        )
        self._known = {row[0] for row in rows}
        return Applied()

    def apply(self, state: Applied, event: Event) -> None:
        if isinstance(event.data, IncidentJoined) and event.subject not in self._known:
            raise NotYet("the ticket is not here yet")
        if isinstance(event.data, TicketWithdrawn) and event.data.reason == "poison":
            raise Poison("this one can never be applied")
        self._known.add(event.subject)
        state.events.append(event)

    async def save(self, transaction: Transaction, state: Applied) -> None:
        for event in state.events:
            await transaction.connection.execute(
                text("INSERT INTO effects (subject, publisher, version) VALUES (:subject, :publisher, :version)"),
                {"subject": event.subject, "publisher": event.publisher, "version": event.version},
            )

    async def on_new_log(self, transaction: Transaction) -> None: ...


@dataclass
class Bench:
    """One database of review, and what it takes to run its relay and consumer."""

    url: str
    broker: Broker
    database: Database

    @asynccontextmanager
    async def running(self, *, consume: bool = True, relay: bool = True) -> AsyncIterator[None]:
        """The roles of one process; leaving kills them as a crash would."""
        leases, watch = Leases(self.url), LogWatch(self.broker.bootstrap)
        sender = Relay("review", self.database, leases, self.broker.bootstrap, retention_days=7)
        consumer = Consumer(
            "review", Recorder(), self.database, leases, watch, self.broker.bootstrap, fetch_max_wait_ms=20
        )
        await sender.keep_partitions()
        tasks = [asyncio.create_task(watch.run())]
        if relay:
            tasks.append(asyncio.create_task(sender.run()))
        if consume:
            tasks.append(asyncio.create_task(consumer.run()))
        try:
            yield
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await leases.close()

    async def query(self, sql: str, **values: Any) -> list[Any]:
        async def run(connection: Any) -> list[Any]:
            return list((await connection.execute(text(sql), values)).all())

        return await self.database.read(run)

    async def until(self, sql: str, expected: Any, **values: Any) -> None:
        """Wait until the query's first value is as expected."""

        async def ask() -> Any:
            return (await self.query(sql, **values))[0][0]

        await self.eventually(ask, expected)

    async def eventually(self, ask: Callable[[], Awaitable[Any]], expected: Any) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_SECONDS
        while (found := await ask()) != expected:
            assert loop.time() < deadline, f"{found!r} is not {expected!r}"
            await asyncio.sleep(0.05)

    async def versions(self, subject: UUID, publisher: str = "intake") -> list[int]:
        rows = await self.query(
            "SELECT version FROM effects WHERE subject = :subject AND publisher = :publisher ORDER BY id",
            subject=subject,
            publisher=publisher,
        )
        return [row[0] for row in rows]


@pytest_asyncio.fixture
async def bench(databases: Databases, broker: Broker) -> AsyncIterator[Bench]:
    url = await databases.fresh("review")
    database = Database(url, plumbing.outbox, pool_size=8)
    async with database.transaction() as transaction:
        await transaction.connection.execute(
            text("CREATE TABLE effects (id bigserial, subject uuid, publisher text, version int)")
        )
    yield Bench(url, broker, database)
    await database.close()


@pytest_asyncio.fixture
async def producer(broker: Broker) -> AsyncIterator[AIOKafkaProducer]:
    sender = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")
    await sender.start()
    yield sender
    await sender.stop()


async def send(
    producer: AIOKafkaProducer,
    subject: UUID,
    version: int,
    *,
    publisher: str = "intake",
    reason: str = "changed my mind",
    value: bytes | None = None,
    headers: list[tuple[str, bytes]] | None = None,
) -> None:
    event: TicketWithdrawn | IncidentJoined = TicketWithdrawn(
        ticket_no="T20261122-0000001", reason=reason, actor="front_line:test"
    )
    if publisher == "sla":
        event = IncidentJoined(ticket_no="T1", incident_id=new_id(), problem=Problem(key="k", parts={}))
    envelope = Envelope(new_id(), f"/gongdan/{publisher}", event.TYPE, subject, NOW, version)
    await producer.send_and_wait(
        INTAKE if publisher == "intake" else SLA,
        key=str(subject).encode(),
        value=event.model_dump_json().encode() if value is None else value,
        headers=envelope.headers() if headers is None else headers,
    )


async def test_positions_are_shown_to_kafka_for_lag_monitors(bench: Bench, producer: AIOKafkaProducer) -> None:
    ticket = new_id()
    await send(producer, ticket, 1)
    async with bench.running(relay=False):
        await bench.until(OF_THESE, 1, ids=[ticket])
        row = (
            await bench.query(
                "SELECT partition, next_offset FROM consumer_offsets WHERE topic = :t"
                " ORDER BY next_offset DESC LIMIT 1",
                t=INTAKE,
            )
        )[0]
        monitor = AIOKafkaConsumer(bootstrap_servers=bench.broker.bootstrap, group_id="gongdan.review")
        await monitor.start()
        partition = TopicPartition(INTAKE, row.partition)
        await bench.eventually(lambda: monitor.committed(partition), row.next_offset)
        await monitor.stop()


async def test_each_version_is_applied_once_and_in_order(bench: Bench, producer: AIOKafkaProducer) -> None:
    ticket = new_id()
    for version in (1, 1, 3, 2, 2, 5, 4, 3):
        await send(producer, ticket, version)
    async with bench.running(relay=False):
        await bench.until("SELECT count(*) FROM effects WHERE subject = :s", 5, s=ticket)
    assert await bench.versions(ticket) == [1, 2, 3, 4, 5]
    assert await bench.query("SELECT 1 FROM parked_events WHERE subject = :s", s=ticket) == []


async def test_an_event_before_its_row_waits_for_it(bench: Bench, producer: AIOKafkaProducer) -> None:
    ticket = new_id()
    await send(producer, ticket, 1, publisher="sla")
    async with bench.running(relay=False):
        await bench.until("SELECT count(*) FROM parked_events WHERE subject = :s", 1, s=ticket)
        await send(producer, ticket, 1)
        await bench.until("SELECT count(*) FROM effects WHERE subject = :s", 2, s=ticket)
    assert await bench.versions(ticket, "sla") == [1]
    assert await bench.query("SELECT 1 FROM parked_events WHERE subject = :s", s=ticket) == []


async def test_nothing_is_applied_twice_by_the_next_process(bench: Bench, producer: AIOKafkaProducer) -> None:
    tickets = [new_id() for _ in range(20)]
    for ticket in tickets:
        await send(producer, ticket, 1)
    async with bench.running(relay=False):
        await bench.until(OF_THESE, 20, ids=tickets)
    for ticket in tickets:
        await send(producer, ticket, 2)
    async with bench.running(relay=False):
        await bench.until(OF_THESE, 40, ids=tickets)
    assert [await bench.versions(ticket) for ticket in tickets] == [[1, 2]] * 20


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ({"value": b"{not json"}, "wrong form"),
        ({"value": b'{"ticket_no": 1}'}, "/ticket_no"),
        ({"headers": []}, "ce_specversion is missing"),
        ({"headers": [("ce_specversion", b"\xff\xfe")]}, "not UTF-8"),
        ({"headers": [("ce_specversion", b"1.\x00")]}, "ce_specversion is 1."),
        ({"headers": [("ce_specversion\x00", b"1.0")]}, "ce_specversion is missing"),
        ({"headers": [("ce_specversion", None)]}, "ce_specversion is missing"),
        ({"reason": "nul \x00"}, "NUL"),
        ({"reason": "poison"}, "never be applied"),
    ],
    ids=[
        *("not json", "wrong types", "no headers", "bad bytes", "nul in a header", "nul in a name", "no value"),
        *("nul in the data", "refused by the handler"),
    ],
)
async def test_a_bad_record_is_a_dead_letter_and_the_stream_goes_on(
    bench: Bench, producer: AIOKafkaProducer, damage: dict[str, Any], expected: str
) -> None:
    ticket, other = new_id(), new_id()
    async with bench.running():
        await send(producer, ticket, 1, **damage)
        await send(producer, other, 1)
        await bench.until("SELECT count(*) FROM effects WHERE subject = :s", 1, s=other)
        await bench.until("SELECT count(*) FROM dead_letters WHERE record_key = :k", 1, k=str(ticket).encode())
        await bench.until("SELECT count(*) FROM outbox WHERE topic = 'gongdan.intake.dlq' AND published_at IS NULL", 0)
    rows = await bench.query("SELECT error FROM dead_letters WHERE record_key = :k", k=str(ticket).encode())
    assert expected in rows[0].error
    reader = AIOKafkaConsumer(bootstrap_servers=bench.broker.bootstrap, auto_offset_reset="earliest")
    await reader.start()
    partition = TopicPartition("gongdan.intake.dlq", 0)
    reader.assign([partition])
    letters: list[Any] = []
    while not any(letter.key == str(ticket).encode() for letter in letters):
        letters += (await reader.getmany(partition, timeout_ms=1000))[partition]
    await reader.stop()
    letter = next(letter for letter in letters if letter.key == str(ticket).encode())
    assert expected in dict(letter.headers)["dead_error"].decode()


async def test_later_events_of_the_ticket_wait_behind_its_dead_letter(bench: Bench, producer: AIOKafkaProducer) -> None:
    ticket = new_id()
    async with bench.running(relay=False):
        await send(producer, ticket, 1)
        await send(producer, ticket, 2, reason="poison")
        await send(producer, ticket, 3)
        await bench.until("SELECT count(*) FROM parked_events WHERE subject = :s", 1, s=ticket)
    assert await bench.versions(ticket) == [1]


async def test_two_processes_share_the_partitions_and_one_takes_over(bench: Bench, producer: AIOKafkaProducer) -> None:
    tickets = [new_id() for _ in range(60)]
    async with bench.running(relay=False):
        async with bench.running(relay=False):
            for ticket in tickets[:30]:
                await send(producer, ticket, 1)
            await bench.until(OF_THESE, 30, ids=tickets)
        for ticket in tickets[30:]:
            await send(producer, ticket, 1)
        await bench.until(OF_THESE, 60, ids=tickets)
    assert [await bench.versions(ticket) for ticket in tickets] == [[1]] * 60


async def test_the_relay_keeps_each_tickets_order_through_a_broker_outage(bench: Bench) -> None:
    """16 writers on 8 tickets, with the broker stopped in between: none missing, none out of order."""
    tickets = [new_id() for _ in range(8)]
    for ticket in tickets:
        async with bench.database.transaction() as transaction:
            await transaction.connection.execute(
                text("INSERT INTO inbox (publisher, subject, version) VALUES ('counter', :s, 0)"), {"s": ticket}
            )

    async def write(number: int) -> None:
        for turn in range(10):
            ticket = tickets[(number + turn) % len(tickets)]
            async with bench.database.transaction() as transaction:
                row = await transaction.connection.execute(
                    text(
                        "UPDATE inbox SET version = version + 1 WHERE publisher = 'counter' AND subject = :s"
                        " RETURNING version"
                    ),
                    {"s": ticket},
                )
                event = TicketWithdrawn(ticket_no="T1", reason="r", actor="a")
                transaction.publish(event, subject=ticket, version=row.scalar_one(), time=NOW, topic="gongdan.review")
            await asyncio.sleep(0.01)

    async with bench.running(consume=False):
        writers = [asyncio.create_task(write(number)) for number in range(16)]
        await asyncio.sleep(0.2)
        await bench.broker.stop()
        await asyncio.gather(*writers)
        waiting = await bench.query("SELECT count(*) FROM outbox WHERE published_at IS NULL")
        assert waiting[0][0] > 0
        await bench.broker.start()
        await bench.until("SELECT count(*) FROM outbox WHERE published_at IS NULL", 0)
    rows = await bench.query("SELECT subject, version FROM outbox WHERE topic = 'gongdan.review' ORDER BY id")
    for ticket in tickets:
        assert [row.version for row in rows if row.subject == ticket] == list(range(1, 21))


async def test_a_record_that_the_client_library_cannot_read_is_stepped_over(
    bench: Bench, producer: AIOKafkaProducer
) -> None:
    """A header name that is no UTF-8: aiokafka would stand before that record for ever."""
    ticket = new_id()
    batch = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 100_000)
    batch.append(0, 1_700_000_000_000, b"key", b"value", [("zz", b"1")])
    raw = bytearray(bytes(batch.build()).replace(b"zz", b"\xff\xfe"))
    raw[17:21] = calc_crc32c(bytes(raw[21:])).to_bytes(4, "big")
    partition = next(iter(await producer.partitions_for(INTAKE)))
    request = ProduceRequest(
        transactional_id=None, required_acks=-1, timeout=5000, topics=[(INTAKE, [(partition, bytes(raw))])]
    )
    leader = producer.client.cluster.leader_for_partition(TopicPartition(INTAKE, partition))
    await producer.client.send(leader, request)
    async with bench.running(relay=False):
        await send(producer, ticket, 1)
        await bench.until(OF_THESE, 1, ids=[ticket])
        await bench.until("SELECT count(*) FROM dead_letters WHERE error LIKE '%not UTF-8%cannot be read'", 1)


async def test_another_log_is_read_from_its_beginning_and_a_replay_is_asked_for(
    bench: Bench, producer: AIOKafkaProducer
) -> None:
    if bench.broker.kind != "embedded":
        pytest.skip("real Kafka keeps its log")
    ticket = new_id()
    async with bench.running(relay=False):
        await send(producer, ticket, 1)
        await bench.until(OF_THESE, 1, ids=[ticket])
        await bench.broker.stop()
        await bench.broker.start()
        fresh = AIOKafkaProducer(bootstrap_servers=bench.broker.bootstrap, acks="all")
        await fresh.start()
        await send(fresh, ticket, 1)
        await send(fresh, ticket, 2)
        await fresh.stop()
        await bench.until(OF_THESE, 2, ids=[ticket])
        await bench.until(
            "SELECT count(*) > 0 FROM outbox WHERE type = 'replay.requested'"
            " AND convert_from(payload, 'UTF8') LIKE '%the log is another one%'"
            " AND convert_from(payload, 'UTF8') LIKE '%\"topic\":\"gongdan.intake\"%'",
            True,
        )
    assert await bench.versions(ticket) == [1, 2]
