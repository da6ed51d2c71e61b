"""What operators do, on a real database and broker: look, redrive, discard, replay, pause and resume."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest_asyncio
from aiokafka import AIOKafkaProducer
from sqlalchemy import text

from shared.contracts.intake import TicketWithdrawn
from shared.contracts.topics import INTAKE, REVIEW
from shared.http.keys import Role
from shared.ids import new_id
from shared.messaging import consumer as consuming
from shared.messaging.log_watch import LogWatch
from shared.operations import figures
from tests.support.desk import OpsDesk, actions, ops_desk
from tests.support.messaging import NOW, OF_THESE, Bench, Running, send

DEAD = "SELECT count(*) FROM dead_letters WHERE record_key = :k"
DEAD_OF_THESE = "SELECT count(*) FROM dead_letters WHERE record_key = ANY(:keys)"
PARKED = "SELECT count(*) FROM parked_events WHERE subject = :s"


@pytest_asyncio.fixture
async def desk(bench: Bench, tmp_path: Path) -> AsyncIterator[OpsDesk]:
    async with ops_desk(bench, LogWatch(bench.broker.address), tmp_path) as opened:
        yield opened


def key(ticket: UUID) -> bytes:
    return str(ticket).encode()


async def unread(bench: Bench, running: Running) -> int:
    return sum(each.lag or 0 for each in await figures.standings(bench.database, running.watch))


async def dead_behind(bench: Bench, producer: AIOKafkaProducer, ticket: UUID, **damage: Any) -> int:
    """Version 1 applied, 2 dead, 3 and 4 parked behind it; the number of the dead letter."""
    async with bench.running(relay=False):
        await send(producer, ticket, 1)
        await send(producer, ticket, 2, **(damage or {"reason": "poison"}))
        await send(producer, ticket, 3)
        await send(producer, ticket, 4)
        await bench.until(PARKED, 2, s=ticket)
    return await letter_of(bench, ticket)


async def letter_of(bench: Bench, ticket: UUID) -> int:
    return int((await bench.query("SELECT id FROM dead_letters WHERE record_key = :k", k=key(ticket)))[0].id)


# ---- redrive and discard -----------------------------------------------------------------------------------------


async def test_a_redriven_letter_takes_effect_and_what_waited_behind_it_follows(
    bench: Bench, producer: AIOKafkaProducer, desk: OpsDesk
) -> None:
    ticket = new_id()
    number = await dead_behind(bench, producer, ticket)
    before = await bench.query("SELECT * FROM consumer_offsets ORDER BY topic, partition")
    answer = await desk.post("/dead-letters:redrive", ids=[number])
    assert answer["results"] == [{"id": number, "state": "redriven", "detail": "applied", "released": 2}]
    assert await bench.versions(ticket) == [1, 2, 3, 4]
    assert (await bench.query(PARKED, s=ticket))[0][0] == 0
    assert await bench.query("SELECT * FROM consumer_offsets ORDER BY topic, partition") == before
    shown = await desk.get(f"/dead-letters/{number}")
    assert (shown["state"], shown["settled_by"], shown["settled_reason"]) == ("redriven", "ops:test ops", "a test")
    assert await actions(bench, ticket) == ["dead_letter.redriven"]


async def test_two_operators_redrive_the_same_letter_once(
    bench: Bench, producer: AIOKafkaProducer, desk: OpsDesk
) -> None:
    ticket = new_id()
    number = await dead_behind(bench, producer, ticket)
    answers = await asyncio.gather(*(desk.post("/dead-letters:redrive", ids=[number]) for _ in range(6)))
    assert await bench.versions(ticket) == [1, 2, 3, 4]
    assert sorted(answer["results"][0]["detail"][:7] for answer in answers) == ["applied", *["nothing"] * 5]
    assert await actions(bench, ticket) == ["dead_letter.redriven"]


async def test_a_letter_that_fails_again_stays_open_and_says_why(
    bench: Bench, producer: AIOKafkaProducer, desk: OpsDesk
) -> None:
    ticket = new_id()
    number = await dead_behind(bench, producer, ticket)
    desk.recorder.repaired = False
    [result] = (await desk.post("/dead-letters:redrive", ids=[number]))["results"]
    assert (result["state"], result["detail"]) == ("open", "this one can never be applied")
    assert await bench.versions(ticket) == [1]
    assert (await bench.query(PARKED, s=ticket))[0][0] == 2
    assert await actions(bench, f"dead_letter/{number}") == ["dead_letter.redrive_failed"]
    assert (await desk.get(f"/dead-letters/{number}"))["attempts"] == 3


async def test_letters_that_fit_a_filter_are_redriven_in_order(
    bench: Bench, producer: AIOKafkaProducer, desk: OpsDesk
) -> None:
    """Version 3 is dead too: it can only take effect behind version 2."""
    ticket = new_id()
    async with bench.running(relay=False):
        await send(producer, ticket, 1)
        await send(producer, ticket, 2, reason="poison")
        await send(producer, ticket, 3, value=b"{not json")
        await bench.until(DEAD, 2, k=key(ticket))
    second, third = (
        row.id
        for row in await bench.query("SELECT id FROM dead_letters WHERE record_key = :k ORDER BY id", k=key(ticket))
    )
    async with bench.database.transaction() as transaction:
        good = await transaction.connection.execute(
            text("SELECT payload FROM dead_letters WHERE id = :i"), {"i": second}
        )
        await transaction.connection.execute(
            text("UPDATE dead_letters SET payload = :p WHERE id = :i"), {"i": third, "p": good.scalar_one()}
        )
    [alone] = (await desk.post("/dead-letters:redrive", ids=[third]))["results"]
    assert (alone["state"], alone["detail"]) == ("open", "waits for version 2")
    assert (await bench.query(PARKED, s=ticket))[0][0] == 0
    answer = await desk.post("/dead-letters:redrive", topic=INTAKE, since=NOW.isoformat())
    fates = {each["id"]: each["state"] for each in answer["results"]}
    assert (fates[second], fates[third]) == ("redriven", "redriven")
    assert await bench.versions(ticket) == [1, 2, 3]


async def test_a_discarded_event_lets_the_later_ones_go_on_without_it(
    bench: Bench, producer: AIOKafkaProducer, desk: OpsDesk
) -> None:
    ticket = new_id()
    number = await dead_behind(bench, producer, ticket, value=b"{not json")
    [result] = (await desk.post("/dead-letters:discard", ids=[number]))["results"]
    assert (result["state"], result["released"]) == ("discarded", 2)
    assert "has no effect here" in result["detail"]
    assert await bench.versions(ticket) == [1, 3, 4]
    [again] = (await desk.post("/dead-letters:discard", ids=[number]))["results"]
    assert again["detail"].startswith("nothing to do: discarded by ops:test ops")
    assert await actions(bench, ticket) == ["dead_letter.discarded"]


async def test_nothing_before_a_discarded_event_is_skipped(
    bench: Bench, producer: AIOKafkaProducer, desk: OpsDesk
) -> None:
    ticket = new_id()
    async with bench.running(relay=False):
        await send(producer, ticket, 3, value=b"{not json")
        await bench.until(DEAD, 1, k=key(ticket))
    number = await letter_of(bench, ticket)
    [result] = (await desk.post("/dead-letters:discard", ids=[number]))["results"]
    assert (result["state"], result["released"]) == ("open", 0)
    assert "version 1" in result["detail"]
    assert await bench.query("SELECT 1 FROM inbox WHERE subject = :s", s=ticket) == []


async def test_a_forged_record_that_is_discarded_moves_no_version(
    bench: Bench, producer: AIOKafkaProducer, desk: OpsDesk
) -> None:
    ticket = new_id()
    forged = [(name, value) for name, value in _headers(ticket, "/gongdan/sla")]
    async with bench.running(relay=False):
        await send(producer, ticket, 1, headers=forged)
        await bench.until(DEAD, 1, k=key(ticket))
    number = await letter_of(bench, ticket)
    [result] = (await desk.post("/dead-letters:discard", ids=[number]))["results"]
    assert result["state"] == "discarded"
    assert await bench.query("SELECT 1 FROM inbox WHERE subject = :s", s=ticket) == []


def _headers(ticket: UUID, source: str) -> list[tuple[str, bytes]]:
    from_whom = {"ce_source": source.encode()}
    plain = {
        "ce_specversion": b"1.0",
        "ce_id": str(new_id()).encode(),
        "ce_type": TicketWithdrawn.TYPE.encode(),
        "ce_subject": key(ticket),
        "ce_time": NOW.isoformat().encode(),
        "ce_sequence": b"1",
    }
    return list((plain | from_whom).items())


# ---- looking -----------------------------------------------------------------------------------------------------


async def test_a_letter_is_shown_masked_and_its_bytes_only_to_operators_and_audited(
    bench: Bench, producer: AIOKafkaProducer, desk: OpsDesk
) -> None:
    ticket = new_id()
    written = "回访电话 13912345678".encode()
    number = await dead_behind(bench, producer, ticket, value=b"{not json")
    async with bench.database.transaction() as transaction:
        await transaction.connection.execute(
            text("UPDATE dead_letters SET payload = :p WHERE id = :i"), {"p": written, "i": number}
        )
    shown = await desk.get(f"/dead-letters/{number}")
    assert shown["payload"] == "回访电话 139****5678"
    assert (shown["type"], shown["publisher"], shown["version"]) == ("ticket.withdrawn", "intake", 2)
    raw = await desk.get(f"/dead-letters/{number}/raw")
    assert base64.b64decode(raw["payload"]) == written
    assert await actions(bench, ticket) == ["dead_letter.read_raw"]
    async with desk.client(Role.supervisor) as supervisor:
        assert (await supervisor.get(f"/dead-letters/{number}")).status_code == 200
        assert (await supervisor.get(f"/dead-letters/{number}/raw")).status_code == 403
        refused = await supervisor.post("/dead-letters:discard", json={"ids": [number], "reason": "r"})
        assert refused.status_code == 403
    async with desk.client() as client:
        assert (await client.get("/dead-letters/999999999")).status_code == 404
        unreasoned = await client.post("/dead-letters:discard", json={"ids": [number]})
        assert (unreasoned.status_code, unreasoned.json()["errors"][0]["pointer"]) == (422, "/reason")


async def test_dead_letters_are_paged_newest_first_and_filtered(
    bench: Bench, producer: AIOKafkaProducer, desk: OpsDesk
) -> None:
    tickets = [new_id() for _ in range(5)]
    async with bench.running(relay=False):
        for ticket in tickets:
            await send(producer, ticket, 1, reason="poison")
        await bench.until(DEAD_OF_THESE, 5, keys=[key(ticket) for ticket in tickets])
    pages = [await desk.get("/dead-letters", limit=3, state="open", topic=INTAKE, error="NEVER BE applied")]
    while (cursor := pages[-1]["next_cursor"]) is not None:
        pages.append(await desk.get("/dead-letters", limit=3, error="NEVER BE applied", cursor=cursor))
    numbers = [letter["id"] for page in pages for letter in page["dead_letters"]]
    assert numbers == sorted(set(numbers), reverse=True)
    assert {letter["key"] for page in pages for letter in page["dead_letters"]} >= {str(ticket) for ticket in tickets}
    assert all(len(page["dead_letters"]) == 3 for page in pages[:-1])
    assert len(pages) > 1
    assert (await desk.get("/dead-letters", state="discarded"))["dead_letters"] == []


async def test_a_parked_event_is_shown_with_what_it_waits_for(
    bench: Bench, producer: AIOKafkaProducer, desk: OpsDesk
) -> None:
    ticket = new_id()
    number = await dead_behind(bench, producer, ticket)
    third, _ = (await desk.get("/parked", ticket=str(ticket)))["parked"]
    assert (third["version"], third["applied_version"], third["reason"]) == (3, 1, "waits for version 2")
    assert third["dead_letters"] == [number]
    assert third["waited_seconds"] >= 0


async def test_positions_and_lag_are_seen_on_either_broker(
    bench: Bench, producer: AIOKafkaProducer, tmp_path: Path
) -> None:
    tickets = [new_id() for _ in range(3)]
    async with bench.running(relay=False) as running, ops_desk(bench, running.watch, tmp_path) as desk:
        for ticket in tickets:
            await send(producer, ticket, 1)
        await bench.until(OF_THESE, 3, ids=tickets)
        await bench.eventually(lambda: unread(bench, running), 0)
        await desk.post("/pause", topic=INTAKE)
        await asyncio.sleep(1.5)
        await send(producer, tickets[0], 2)
        positions = [each for each in (await desk.get("/positions"))["positions"] if each["topic"] == INTAKE]
        status = await desk.get("/status")
    assert len(positions) == 8
    assert sum(each["lag"] for each in positions) == 1
    assert all(each["end"] - each["next_offset"] == each["lag"] and each["same_log"] for each in positions)
    assert any(each["applied_at"] for each in positions)
    assert all(each["paused"] for each in positions)
    assert (status["lag"], status["paused"][0]["topic"]) == (1, INTAKE)


# ---- pause and resume --------------------------------------------------------------------------------------------


async def test_a_paused_topic_is_not_read_and_the_others_are(
    bench: Bench, producer: AIOKafkaProducer, desk: OpsDesk
) -> None:
    ticket, other = new_id(), new_id()
    async with bench.running(relay=False) as running:
        await send(producer, ticket, 1)
        await bench.until(OF_THESE, 1, ids=[ticket])
        await desk.post("/pause", topic=INTAKE)
        await asyncio.sleep(2)
        await send(producer, ticket, 2)
        await send(producer, ticket, 1, publisher="sla")
        await bench.until(OF_THESE, 2, ids=[ticket])
        assert await bench.versions(ticket) == [1]
        assert running.consumer.lag == 0
    async with bench.running(relay=False):
        await send(producer, other, 1)
        await asyncio.sleep(3)
        assert await bench.versions(other) == [], "a pause outlives the process"
        assert (await desk.post("/resume", topic=INTAKE))["lifted"] == [INTAKE]
        await bench.until(OF_THESE, 4, ids=[ticket, other])
    assert await bench.versions(ticket) == [1, 2]
    assert await actions(bench, INTAKE) == ["reading.paused", "reading.resumed"]
    async with desk.client() as client:
        unknown = await client.post("/pause", json={"topic": REVIEW, "reason": "r"})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "topic_not_read_here")


async def test_a_stop_after_too_many_dead_letters_is_lifted_by_resume_without_a_restart(
    bench: Bench, producer: AIOKafkaProducer, desk: OpsDesk
) -> None:
    bad = consuming.DEAD_IN_A_ROW_LIMIT + 5
    tickets = [new_id() for _ in range(bad)]
    first, good = new_id(), new_id()
    async with bench.running(relay=False) as running:
        await send(producer, first, 1)
        await bench.until(OF_THESE, 1, ids=[first])
        await bench.eventually(lambda: unread(bench, running), 0)
        for ticket in tickets:
            await send(producer, ticket, 1, reason="poison")
        await bench.until("SELECT count(*) FROM paused_topics WHERE paused_by = 'consumer'", 1)
        await send(producer, good, 1)
        await asyncio.sleep(2)
        assert running.consumer.failure is not None
        assert await bench.versions(good) == []
        assert (await desk.get("/status"))["paused"][0]["by_itself"]
        await desk.post("/resume", topic="*")
        await bench.until(OF_THESE, 1, ids=[good])
        await bench.until(DEAD_OF_THESE, bad, keys=[key(ticket) for ticket in tickets])
        assert running.consumer.failure is None
