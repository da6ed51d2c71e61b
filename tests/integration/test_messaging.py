"""Relay and consumer on a real broker and a real database: order, versions, parking, dead letters, restarts."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from sqlalchemy import text

from shared.contracts.intake import TicketWithdrawn
from shared.contracts.topics import INTAKE
from shared.ids import new_id
from tests.support.messaging import NOW, OF_THESE, Bench, send


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


async def test_for_another_log_a_replay_is_asked_for_once_a_topic(bench: Bench, producer: AIOKafkaProducer) -> None:
    if bench.broker.kind != "embedded":
        pytest.skip("real Kafka keeps its log")
    tickets = [new_id() for _ in range(64)]
    requests = (
        "SELECT count(*) FROM outbox WHERE type = 'replay.requested'"
        " AND convert_from(payload, 'UTF8') LIKE '%\"topic\":\"gongdan.intake\"%'"
    )
    async with bench.running(relay=False):
        await asyncio.gather(*(send(producer, ticket, 1) for ticket in tickets))
        await bench.until(OF_THESE, len(tickets), ids=tickets)
        before = (await bench.query(requests))[0][0]
        logs = "SELECT count(DISTINCT incarnation) FROM consumer_offsets WHERE incarnation <> :old"
        old = (await bench.query("SELECT incarnation FROM consumer_offsets LIMIT 1"))[0][0]
        await bench.broker.stop()
        await bench.broker.start()
        await bench.until(logs, 1, old=old)
        await bench.until("SELECT count(*) FROM consumer_offsets WHERE incarnation = :old", 0, old=old)
    assert (await bench.query(requests))[0][0] - before == 1


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
