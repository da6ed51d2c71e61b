"""Records that cannot be applied, read or sent: each falls alone, with its reason, and the stream goes on."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from shared import failpoints
from shared.contracts.envelope import Envelope
from shared.contracts.intake import TicketWithdrawn
from shared.contracts.topics import INTAKE
from shared.errors import Transient
from shared.ids import new_id
from shared.operations import figures
from tests.support.messaging import NOW, OF_THESE, Bench, Running, send

NESTED = b'["13800001234", %s%s]'
UNREADABLE = "SELECT count(*) FROM dead_letters WHERE error LIKE '%not UTF-8%cannot be read'"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ({"value": b"{not json"}, "wrong form"),
        ({"value": b'{"ticket_no": 1}'}, "/ticket_no"),
        ({"headers": []}, "ce_specversion is missing"),
        ({"headers": [("ce_specversion", b"\xff\xfe")]}, "not UTF-8"),
        ({"headers": [("ce_specversion", b"1.\x00")]}, "ce_specversion is not 1.0"),
        ({"headers": [("ce_specversion\x00", b"1.0")]}, "ce_specversion is missing"),
        ({"headers": [("ce_specversion", None)]}, "ce_specversion is missing"),
        ({"headers": [], "value": NESTED % (b"[" * 300, b"]" * 300)}, "ce_specversion is missing"),
        ({"headers": [], "value": NESTED % (b"[" * 600, b"]" * 600)}, "ce_specversion is missing"),
        ({"headers": [], "value": NESTED % (b"[" * 2000, b"]" * 2000)}, "ce_specversion is missing"),
        ({"reason": "nul \x00"}, "NUL"),
        ({"reason": "poison"}, "never be applied"),
    ],
    ids=[
        *("not json", "wrong types", "no headers", "bad bytes", "nul in a header", "nul in a name", "no value"),
        *("deep", "deeper than can be walked", "deeper than can be read"),
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


async def test_a_record_as_large_as_the_broker_takes_holds_nobody_back(
    bench: Bench, producer: AIOKafkaProducer
) -> None:
    """Its dead letter would be larger than the broker takes."""
    ticket, other = new_id(), new_id()
    async with bench.running():
        await send(producer, ticket, 1, value=b"x" * 1_000_000)
        await send(producer, other, 1)
        await bench.until("SELECT count(*) FROM dead_letters WHERE record_key = :k", 1, k=str(ticket).encode())
        await bench.until(OF_THESE, 1, ids=[other])
        await bench.until("SELECT count(*) FROM outbox WHERE topic LIKE '%.dlq' AND published_at IS NULL", 0)


async def test_an_event_too_large_holds_back_its_own_subject_only(bench: Bench) -> None:
    if bench.broker.kind == "embedded":
        pytest.skip("the broker in memory takes records of any size")
    ticket, other = new_id(), new_id()
    async with bench.running(consume=False):
        async with bench.database.transaction() as transaction:
            huge = TicketWithdrawn(ticket_no="T1", reason="x" * 1_100_000, actor="a")
            fine = TicketWithdrawn(ticket_no="T1", reason="x", actor="a")
            transaction.publish(huge, subject=ticket, version=1, time=NOW, topic="gongdan.review")
            transaction.publish(fine, subject=other, version=1, time=NOW, topic="gongdan.review")
        sent = "SELECT count(*) FROM outbox WHERE subject = :s AND published_at IS NOT NULL"
        await bench.until(sent, 1, s=other)
        assert (await bench.query(sent, s=ticket))[0][0] == 0


async def test_an_event_of_a_service_that_does_not_publish_there_is_a_dead_letter(
    bench: Bench, producer: AIOKafkaProducer
) -> None:
    ticket = new_id()
    event = TicketWithdrawn(ticket_no="T1", reason="r", actor="a")
    forged = Envelope(new_id(), "/gongdan/sla", event.TYPE, ticket, NOW, 1).headers()
    async with bench.running(relay=False):
        await send(producer, ticket, 1, headers=forged)
        await send(producer, ticket, 1)
        await bench.until(OF_THESE, 1, ids=[ticket])
    letters = await bench.query("SELECT error FROM dead_letters WHERE record_key = :k", k=str(ticket).encode())
    assert ["does not publish on gongdan.intake" in letter.error for letter in letters] == [True]


async def test_a_bad_event_that_was_parked_falls_alone_when_its_turn_comes(
    bench: Bench, producer: AIOKafkaProducer
) -> None:
    ticket = new_id()
    async with bench.running(relay=False):
        await send(producer, ticket, 2, reason="poison")
        await bench.until("SELECT count(*) FROM parked_events WHERE subject = :s", 1, s=ticket)
        await send(producer, ticket, 1)
        await bench.until(OF_THESE, 1, ids=[ticket])
        await bench.until("SELECT count(*) FROM dead_letters WHERE record_key = :k", 1, k=str(ticket).encode())
    assert await bench.versions(ticket) == [1]
    assert await bench.query("SELECT 1 FROM parked_events WHERE subject = :s", s=ticket) == []


async def test_a_bad_record_does_not_cost_each_of_its_neighbours_a_transaction(
    bench: Bench, producer: AIOKafkaProducer
) -> None:
    tickets, bad = [new_id() for _ in range(400)], [new_id() for _ in range(3)]
    reasons = dict.fromkeys(bad, "poison")
    mixed = [*tickets[:150], bad[0], *tickets[150:250], bad[1], *tickets[250:], bad[2]]
    await asyncio.gather(*(send(producer, ticket, 1, reason=reasons.get(ticket, "r")) for ticket in mixed))
    async with bench.running(relay=False):
        await bench.until(OF_THESE, len(tickets), ids=tickets)
    commits = "SELECT count(DISTINCT xmin::text) FROM effects WHERE subject = ANY(:ids)"
    assert (await bench.query(commits, ids=tickets))[0][0] < len(tickets) / 4


async def test_later_events_of_the_ticket_wait_behind_its_dead_letter(bench: Bench, producer: AIOKafkaProducer) -> None:
    ticket = new_id()
    async with bench.running(relay=False):
        await send(producer, ticket, 1)
        await send(producer, ticket, 2, reason="poison")
        await send(producer, ticket, 3)
        await bench.until("SELECT count(*) FROM parked_events WHERE subject = :s", 1, s=ticket)
    assert await bench.versions(ticket) == [1]


async def test_a_record_that_the_client_library_cannot_read_is_stepped_over(
    bench: Bench, producer: AIOKafkaProducer
) -> None:
    """A header name that is no UTF-8: aiokafka would stand before that record for ever."""
    ticket = new_id()
    await send_unreadable(producer)
    async with bench.running(relay=False):
        await send(producer, ticket, 1)
        await bench.until(OF_THESE, 1, ids=[ticket])
        await bench.until(UNREADABLE, 1)


async def test_a_database_that_goes_away_while_a_record_is_stepped_over_does_not_end_the_reading(
    bench: Bench, producer: AIOKafkaProducer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = new_id()
    gone: list[str] = []

    def goes_away_twice() -> None:
        if len(gone) < 2:
            gone.append("away")
            raise Transient("the connection is gone")

    async with bench.running(relay=False) as running:
        # What earlier tests left in the log is dead before the database begins to go away.
        await bench.eventually(lambda: _unread(bench, running), 0)
        before = (await bench.query(UNREADABLE))[0][0]
        monkeypatch.setitem(failpoints._armed, "consumer.burial_written", goes_away_twice)
        await send_unreadable(producer)
        await bench.until(UNREADABLE, before + 1)
        await send(producer, ticket, 1)
        await bench.until(OF_THESE, 1, ids=[ticket])
        places = "SELECT count(*) - count(DISTINCT (topic, partition, record_offset)) FROM dead_letters"
        assert (await bench.query(places))[0][0] == 0
    assert len(gone) == 2


async def test_an_unreadable_record_does_not_stop_a_reader_with_traffic(
    bench: Bench, producer: AIOKafkaProducer
) -> None:
    """What the client fetched of the other partitions meanwhile must not keep it from the one it steps through."""
    tickets: list[UUID] = []

    async def traffic() -> None:
        while True:
            fresh = [new_id() for _ in range(8)]
            await asyncio.gather(*(send(producer, ticket, 1) for ticket in fresh))
            tickets.extend(fresh)
            await asyncio.sleep(0.1)

    async with bench.running(relay=False) as running:
        await bench.eventually(lambda: _unread(bench, running), 0)
        before = (await bench.query(UNREADABLE))[0][0]
        going_on = asyncio.create_task(traffic())
        await bench.eventually(lambda: _some_applied(bench, tickets), True)
        await send_unreadable(producer)
        await bench.until(UNREADABLE, before + 1)
        going_on.cancel()
        await asyncio.gather(going_on, return_exceptions=True)
        await bench.until(OF_THESE, len(tickets), ids=tickets)


async def _unread(bench: Bench, running: Running) -> int | None:
    """How many records wait; None while that is not known of all topics."""
    lags = [each.lag for each in await figures.standings(bench.database, running.watch)]
    return None if None in lags or not lags else sum(lag or 0 for lag in lags)


async def _some_applied(bench: Bench, tickets: list[UUID]) -> bool:
    return bool((await bench.query(OF_THESE, ids=tickets))[0][0])


async def send_unreadable(producer: AIOKafkaProducer) -> None:
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
