"""The relay among topics that take no records, and what of its outbox is a backlog."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiokafka.errors import TopicAuthorizationFailedError
from sqlalchemy import text

from shared.contracts.intake import TicketWithdrawn
from shared.contracts.topics import REVIEW
from shared.database.leases import Leases
from shared.ids import new_id
from shared.messaging import outbox, relay, shipment
from shared.messaging.outbox import Selection
from tests.support.messaging import NOW, Bench
from tests.support.parts import Broker, running_broker

CLOSED = "gongdan.dispatch.closed"
WAITING = "SELECT count(*) FROM outbox WHERE published_at IS NULL AND topic = :topic"


@pytest_asyncio.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broker]:
    async with running_broker("embedded", tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest_asyncio.fixture(autouse=True)
async def partitions(bench: Bench) -> None:
    await sender(bench).keep_partitions()


def sender(bench: Bench) -> relay.Relay:
    return relay.Relay("review", bench.database, Leases(bench.url), bench.broker.address, retention_days=7)


async def publish(bench: Bench, topic: str, count: int) -> None:
    event = TicketWithdrawn(ticket_no="T1", reason="r", actor="front_line:test")
    async with bench.database.transaction() as transaction:
        for _ in range(count):
            transaction.publish(event, subject=new_id(), version=1, time=NOW, topic=topic)


async def test_a_topic_that_takes_no_records_holds_up_no_other(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than a batch holds, before the others, for a topic to which we have no right."""
    really_ask = shipment.partitions_of

    async def ask(producer: Any, topic: str) -> list[int]:
        if topic == CLOSED:
            raise TopicAuthorizationFailedError
        return await really_ask(producer, topic)

    monkeypatch.setattr(shipment, "partitions_of", ask)
    await publish(bench, CLOSED, relay.BATCH + 1)
    await publish(bench, REVIEW, 5)
    async with bench.running(consume=False):
        await bench.until(WAITING, 0, topic=REVIEW)
    assert (await bench.query(WAITING, topic=CLOSED))[0][0] == relay.BATCH + 1


async def test_events_that_are_sent_again_are_no_backlog(bench: Bench) -> None:
    await publish(bench, REVIEW, 3)
    async with bench.running(consume=False):
        await bench.until(WAITING, 0, topic=REVIEW)
    async with bench.database.transaction() as transaction:
        await transaction.connection.execute(text("UPDATE outbox SET created_at = now() - interval '3 hours'"))
    marked = [chunk.marked async for chunk in outbox.replay(bench.database, Selection((REVIEW,)))]
    assert sum(marked) == 3
    assert await bench.database.read(lambda connection: outbox.backlog(connection, 100)) == (0, 0.0)
    await publish(bench, REVIEW, 1)
    waiting, oldest = await bench.database.read(lambda connection: outbox.backlog(connection, 100))
    assert waiting == 1
    assert oldest < 3600


async def test_the_backlog_is_counted_where_only_the_api_runs(bench: Bench) -> None:
    await publish(bench, REVIEW, 2)
    counting = sender(bench)
    await counting.count_backlog()
    assert counting.waiting == 2
