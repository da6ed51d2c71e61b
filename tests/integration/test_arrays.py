"""Rows written as arrays: every text comes back as it was, and a wide value is written only when it changed."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest_asyncio

from services.dispatch import repository as dispatch
from services.dispatch.domain.order import OrderStatus, WorkOrder
from services.intake import repository as intake
from services.review import domain
from services.review import repository as review
from services.review.domain import Review, ReviewStatus
from shared.contracts.dispatch import Reply
from shared.contracts.ticket import Basis
from shared.database.arrays import text_array
from shared.database.engine import Database
from shared.ids import new_id
from tests.support.parts import Databases
from tests.support.snapshots import NOW, snapshot

LATER = datetime(2026, 12, 1, tzinfo=UTC)
STRANGE = ("", "plain", 'a "quoted" one', "back\\slash", "a,b", "{}", "NULL", " 空格 ", "line\nbreak", "{'\\\"}")


@pytest_asyncio.fixture
async def reviews(databases: Databases) -> AsyncIterator[Database]:
    database = Database(await databases.fresh("review"), pool_size=1)
    yield database
    await database.close()


@pytest_asyncio.fixture
async def orders(databases: Databases) -> AsyncIterator[Database]:
    database = Database(await databases.fresh("dispatch"), pool_size=1)
    yield database
    await database.close()


async def test_every_text_of_an_array_comes_back(databases: Databases) -> None:
    database = Database(await databases.fresh("intake"), pool_size=1)
    kept: dict[UUID, tuple[str, ...]] = {new_id(): rules for rules in ((), STRANGE, *((text,) for text in STRANGE))}
    async with database.transaction() as transaction:
        rows = [
            (ticket, new_id(), NOW, "review", "review.held", "rules:review", text_array(rules), '{"round": 1}')
            for ticket, rules in kept.items()
        ]
        await intake.add_entries(transaction.connection, rows)
    for ticket, rules in kept.items():
        [entry] = await database.read(lambda connection, ticket=ticket: intake.timeline(connection, ticket))  # type: ignore[misc]
        assert (tuple(entry.rules), entry.details) == (rules, {"round": 1})
    await database.close()


async def stored_review(database: Database, given: Review) -> Review:
    async with database.transaction() as transaction:
        await review.save(transaction.connection, [given], NOW)
        return (await review.lock_many(transaction.connection, [given.ticket_id]))[given.ticket_id]


async def test_a_review_that_moves_on_keeps_its_ticket(reviews: Database) -> None:
    new = Review(ticket_id=new_id(), ticket=snapshot(), opened_at=NOW, is_new=True)
    found = await stored_review(reviews, new)
    assert found.ticket == new.ticket
    # What lies there is told apart from what would be written.
    async with reviews.transaction() as transaction:
        await transaction.connection.run('UPDATE reviews SET snapshot = snapshot || \'{"content": "kept"}\'')
    domain.end(found)
    ended = await stored_review(reviews, found)
    assert (ended.status, ended.ticket.content) == (ReviewStatus.ended, "kept")


async def test_a_review_with_another_ticket_stores_it(reviews: Database) -> None:
    found = await stored_review(reviews, Review(ticket_id=new_id(), ticket=snapshot(), opened_at=NOW, is_new=True))
    other = found.ticket.model_copy(update={"content": "something else"})
    domain.reclassify(found, other, "reviewer:x", Basis(pack="p", version="1"), NOW)
    assert (await stored_review(reviews, found)).ticket == other


async def stored_orders(database: Database, *given: WorkOrder) -> list[WorkOrder]:
    async with database.transaction() as transaction:
        await dispatch.save(transaction.connection, given, NOW)
        found = await dispatch.lock_many(transaction.connection, [order.ticket_id for order in given])
        return [found[order.ticket_id] for order in given]


async def test_new_and_changed_orders_are_stored_together(orders: Database) -> None:
    """One that waits for its approval has no ticket; one with a ticket keeps it; a reply is added to it."""
    ended = WorkOrder(ticket_id=new_id(), ticket_no="T1", status=OrderStatus.ended, closed_at=LATER, is_new=True)
    sent = WorkOrder(ticket_id=new_id(), ticket_no="T2", ticket=snapshot(), branch="jinan", is_new=True)
    sent.route_rules = STRANGE
    first_ended, first_sent = await stored_orders(orders, ended, sent)
    assert (first_ended.ticket, first_ended.closed_at) == (None, LATER)
    assert (first_sent.ticket, first_sent.route_rules, first_sent.reply) == (sent.ticket, STRANGE, None)
    reply = Reply(process="p", content="c", satisfaction="satisfied", replier="r", replied_at=NOW)
    first_sent.reply, first_sent.status = reply, OrderStatus.replied
    third = WorkOrder(ticket_id=new_id(), ticket_no="T3", ticket=snapshot(), branch="zibo", is_new=True)
    still_ended, replied, _ = await stored_orders(orders, first_ended, first_sent, third)
    assert (still_ended.ticket, replied.ticket, replied.reply) == (None, sent.ticket, reply)
    replied.status = OrderStatus.closed
    [closed] = await stored_orders(orders, replied)
    assert replace(closed, stored=(None, None)) == replace(replied, stored=(None, None))
