"""The audit is trusted because it finds bugs that were put in: eight known ways to lose or double an event, each in the
real piece on a real database and broker, and each time the same without the bug, where the audit finds nothing.
"""

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy import text

from shared.contracts.review import ReviewReturned
from shared.contracts.ticket import Basis
from shared.database.engine import Database, Transaction
from shared.ids import new_id
from shared.messaging.relay import Relay
from tests.faults.planted import PLANTS
from tests.support.house import UNPUBLISHED, House, about, house
from tests.support.messaging import Bench

__all__ = ["house"]

RELAYED = "SELECT count(*) FROM outbox WHERE subject = :s AND published_at IS NOT NULL"
# So many complaints of one problem within an hour are a batch, and each of them is escalated (GDM-D6).
BATCH = 10
RAISED = "SELECT count(*) FROM outbox WHERE type = 'escalation.raised' AND published_at IS NOT NULL"
ESCALATED = "SELECT count(DISTINCT subject) FROM outbox WHERE type = 'order.escalated'"


def planted(bug: str | None) -> tuple[str, ...]:
    return ("--plant", bug) if bug else ()


async def slow_down(database: Database, seconds: float) -> None:
    """Every transaction that publishes takes up to so long before its commit, as long work does."""
    async with database.transaction() as transaction:
        await transaction.connection.execute(
            text(
                "CREATE FUNCTION take_a_while() RETURNS trigger LANGUAGE plpgsql AS"
                f" 'BEGIN PERFORM pg_sleep(random() * {seconds}); RETURN NULL; END'"
            )
        )
        await transaction.connection.execute(
            text("CREATE TRIGGER slow AFTER INSERT ON audit_trail FOR EACH STATEMENT EXECUTE FUNCTION take_a_while()")
        )


def end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


# ---- the relay -------------------------------------------------------------------------------------------------------


@contextmanager
def planted_here(bug: str | None) -> Iterator[None]:
    """Put a bug of the relay into this process, and take it out again."""
    kept = Relay._pass
    if bug is not None:
        PLANTS[bug]()
    try:
        yield
    finally:
        Relay._pass = kept  # type: ignore[method-assign]


def returned(ticket: UUID, version: int) -> ReviewReturned:
    basis = Basis(pack="p", version="1")
    number = f"T20261122-{ticket.int % 10**7:07d}"
    return ReviewReturned(ticket_no=number, round=version, reason_code="r", automatic=True, basis=basis, actor="rules")


async def number_of(transaction: Transaction) -> None:
    """Give the transaction its number now, as any write before its events does."""
    await transaction.connection.execute(text("SELECT pg_current_xact_id()"))


async def commit_out_of_turn(bench: Bench) -> None:
    """The transaction with the higher number takes the lower outbox id, and commits after the other was relayed."""
    early, late = new_id(), new_id()
    numbered, stored = asyncio.Event(), asyncio.Event()

    async def begins_first() -> None:
        async with bench.database.transaction() as transaction:
            await number_of(transaction)
            numbered.set()
            await stored.wait()
            transaction.publish(returned(early, 1), subject=early, version=1, time=datetime.now(UTC))

    async def commits_last() -> None:
        await numbered.wait()
        async with bench.database.transaction() as transaction:
            await number_of(transaction)
            transaction.publish(returned(late, 1), subject=late, version=1, time=datetime.now(UTC))
            await transaction.flush()
            transaction._outgoing.clear()
            transaction._audited.clear()
            stored.set()
            await bench.until(RELAYED, 1, s=early)

    await asyncio.gather(begins_first(), commits_last())


async def write_in_turn_with_numbers_out_of_turn(bench: Bench) -> None:
    """Two events of one ticket in their right order; the second one's transaction has the lower number."""
    ticket = new_id()
    async with bench.database.transaction() as second:
        await number_of(second)
        async with bench.database.transaction() as first:
            first.publish(returned(ticket, 1), subject=ticket, version=1, time=datetime.now(UTC))
        second.publish(returned(ticket, 2), subject=ticket, version=2, time=datetime.now(UTC))


@pytest.mark.parametrize(
    ("bug", "invariant", "words"),
    [
        (None, 0, ""),
        ("relay_by_last_id", 4, "is not published"),
        ("relay_up_to_open", 4, "is not published"),
        ("relay_by_transaction", 5, ""),
    ],
)
async def test_a_relay_that_loses_or_reorders_is_found(
    house: House, bug: str | None, invariant: int, words: str
) -> None:
    database = Database(house.urls["review"], pool_size=6)
    bench = Bench(house.urls["review"], house.broker, database)
    with planted_here(bug):
        async with bench.running(consume=False):
            for _ in range(5):
                await commit_out_of_turn(bench)
                await write_in_turn_with_numbers_out_of_turn(bench)
            await asyncio.sleep(2.0)
    await database.close()
    found = await house.found(at_rest=False)
    if bug is None:
        assert not [line for line in found[4] if "is not published" in line]
        assert found[5] == []
    else:
        assert [line for line in found[invariant] if words in line], found


# ---- readers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bug", "gap"), [(None, "consumer.effects_written"), ("commit_before_apply", "planted.offset_stored")]
)
async def test_a_reader_that_moves_on_before_it_has_applied_is_found(house: House, bug: str | None, gap: str) -> None:
    """It dies with tickets in hand: nothing else waits for it."""
    house.start("intake")
    review = house.start("review")
    await house.post(1)
    await house.until("review", "SELECT count(*) FROM reviews", 1)
    await house.rest()
    end(review)
    await house.post(3)
    await house.until("intake", UNPUBLISHED, 0)
    await house.dies("review", *planted(bug), "--kill-at", gap)
    house.start("review", *planted(bug))
    found = about(await house.found(), "review", 2, 3, 4, 5)
    assert bool(found) is bool(bug), found


@pytest.mark.parametrize("bug", [None, "offset_stored_apart"])
async def test_a_reader_that_moves_on_apart_from_its_effects_is_found(house: House, bug: str | None) -> None:
    """It dies when it has just escalated orders: nothing else that waits for it lets it publish."""
    for service in ("intake", "review"):
        house.start(service)
    dispatch = house.start("dispatch")
    await house.post(BATCH)
    await house.until("dispatch", "SELECT count(*) FROM work_orders", BATCH)
    end(dispatch)
    house.start("sla")
    await house.until("sla", RAISED, BATCH)
    await house.dies("dispatch", *planted(bug), "--kill-at", "outbox.committed")
    house.start("dispatch", *planted(bug))
    await house.until("dispatch", ESCALATED, BATCH)
    found = about(await house.found(), "dispatch", 2, 3, 4, 5)
    assert bool(found) is bool(bug), found


@pytest.mark.parametrize("bug", [None, "no_version_check"])
async def test_a_reader_that_applies_everything_it_sees_is_found(house: House, bug: str | None) -> None:
    """Escalations are sent again; an order must not be escalated again."""
    house.start("dispatch", *planted(bug))
    for service in ("intake", "review", "sla"):
        house.start(service)
    await house.post(BATCH)
    await house.until("dispatch", ESCALATED, BATCH)
    await house.again("sla")
    found = about(await house.found(), "dispatch", 2, 3, 4, 5)
    assert bool(found) is bool(bug), found


@pytest.mark.parametrize("bug", [None, "parked_ticket_skipped"])
async def test_a_reader_that_does_not_wait_for_what_is_missing_is_found(house: House, bug: str | None) -> None:
    """What dispatch says reaches intake backwards."""
    house.start("intake", *planted(bug))
    house.start("review")
    house.start("dispatch", roles="api,consumer")
    await house.post(1)
    (ticket,) = house.tickets
    await house.until("dispatch", "SELECT count(*) FROM work_orders", 1)
    await house.accept(ticket["ticket_no"])
    await house.publish_backwards()
    applied = f"SELECT sum(version) FROM inbox WHERE publisher = 'dispatch' AND subject = '{ticket['ticket_id']}'"
    await house.until("intake", applied, 2)
    found = about(await house.found(), "intake", 2, 3, 4)
    assert bool(found) is bool(bug), found


# ---- the sweep -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bug", [None, "fire_without_lock"])
async def test_a_sweep_that_fires_without_a_lock_is_found(house: House, bug: str | None) -> None:
    """Two sweep from the beginning."""
    database = Database(house.urls["sla"], pool_size=1)
    await slow_down(database, 0.5)
    await database.close()
    house.time_scale = 36_000
    for _ in range(2):
        house.start("sla", *planted(bug))
        await house.answers("sla")
    house.start("intake")
    await house.post(20)
    await house.until("sla", "SELECT count(DISTINCT ticket_id) FROM clocks WHERE breached_at IS NOT NULL", 20)
    found = await house.found(at_rest=False)
    assert bool(about(found, "sla", 3) + found[7]) is bool(bug), found
