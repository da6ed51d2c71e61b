"""Replays, on a real database and broker: what an operator asks for, and what another service asks for."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest_asyncio
from aiokafka import AIOKafkaProducer
from sqlalchemy import text

from shared.contracts.control import ReplayRequested
from shared.contracts.envelope import Envelope
from shared.contracts.intake import TicketWithdrawn
from shared.contracts.topics import INTAKE, REVIEW
from shared.errors import Transient
from shared.ids import new_id
from shared.messaging import outbox
from shared.messaging.log_watch import LogWatch
from tests.support.desk import OpsDesk, actions, ops_desk
from tests.support.messaging import NOW, Bench


@pytest_asyncio.fixture
async def desk(bench: Bench, tmp_path: Path) -> AsyncIterator[OpsDesk]:
    async with ops_desk(bench, LogWatch(bench.broker.address), tmp_path) as opened:
        yield opened


async def publish(bench: Bench, subject: UUID, count: int, topic: str = REVIEW) -> None:
    async with bench.database.transaction() as transaction:
        for version in range(1, count + 1):
            event = TicketWithdrawn(ticket_no="T1", reason="r", actor="a")
            transaction.publish(event, subject=subject, version=version, time=NOW, topic=topic)


async def all_published(bench: Bench) -> None:
    async with bench.database.transaction() as transaction:
        await transaction.connection.execute(text("UPDATE outbox SET published_at = now()"))


async def test_a_replay_marks_what_was_asked_for_and_no_more(bench: Bench, desk: OpsDesk) -> None:
    one, other = new_id(), new_id()
    async with bench.running(consume=False, relay=False):
        await publish(bench, one, 3)
        await publish(bench, other, 4)
        await publish(bench, other, 2, topic="gongdan.intake.dlq")
        await all_published(bench)
        assert (await desk.post("/replay", ticket=str(one)))["marked"] == 3
        assert (await desk.post("/replay", ticket=str(one)))["marked"] == 0, "a repeat finds them marked"
        assert (await desk.post("/replay", since="2099-01-01T00:00:00Z"))["marked"] == 0
        assert (await desk.post("/replay", topic=REVIEW)) == {"marked": 4, "next_after": None}
        await all_published(bench)
        assert (await desk.post("/replay"))["marked"] == 7
    assert await actions(bench, one) == ["outbox.replayed"]
    async with desk.client() as client:
        wrong = await client.post("/replay", json={"topic": INTAKE, "reason": "r"})
        unknown = await client.post("/replay", json={"ticket": "T20261122-0000012", "reason": "r"})
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/topic")
    assert unknown.status_code == 404


async def test_a_long_replay_goes_on_where_it_stopped(bench: Bench, desk: OpsDesk, monkeypatch: Any) -> None:
    async with bench.running(consume=False, relay=False):
        await publish(bench, new_id(), 25)
        await all_published(bench)
        monkeypatch.setattr(outbox, "CHUNK_IDS", 10)
        monkeypatch.setattr("shared.http.operations.REPLAY_SECONDS", -1.0)
        marked, after, rounds = 0, 0, 0
        while True:
            answer = await desk.post("/replay", after=after)
            marked, rounds = marked + answer["marked"], rounds + 1
            if answer["next_after"] is None:
                break
            after = answer["next_after"]
    assert (marked, rounds) == (25, 3)


async def test_a_request_for_replay_is_answered_again_after_a_crash_in_the_middle(
    bench: Bench, producer: AIOKafkaProducer, monkeypatch: Any
) -> None:
    """The database goes away after the first chunk; the request is read again and all of it is sent."""
    monkeypatch.setattr(outbox, "CHUNK_IDS", 10)
    async with bench.running(consume=False, relay=False):
        await publish(bench, new_id(), 25)
        await all_published(bench)
    whole = outbox.replay
    broken: list[outbox.Chunk] = []

    async def breaks_once(*given: Any, **more: Any) -> AsyncIterator[outbox.Chunk]:
        async for chunk in whole(*given, **more):
            yield chunk
            if not broken:
                broken.append(chunk)
                raise Transient("the connection is gone")

    monkeypatch.setattr(outbox, "replay", breaks_once)
    request = ReplayRequested(topic=REVIEW, requested_by="sla", reason="first start")
    async with bench.running(relay=False):
        await producer.send_and_wait(
            ReplayRequested.TOPIC,
            key=b"k",
            value=request.model_dump_json().encode(),
            headers=Envelope(new_id(), "/gongdan/sla", ReplayRequested.TYPE, new_id(), NOW, 1).headers(),
        )
        await bench.until("SELECT count(*) FROM outbox WHERE topic = :t AND published_at IS NULL", 25, t=REVIEW)
    assert [chunk.marked for chunk in broken] == [10]
