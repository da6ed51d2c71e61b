"""Whole life: registered, approved, dispatched, accepted and answered by the branch, called back, closed."""

import asyncio
import time

from deploy.local.state import SERVICES
from tests.bench.figures import Cpu, Figure, Findings, milliseconds_a_ticket
from tests.bench.machine import SERVERS
from tests.bench.stand import Part, Stand

SECONDS = 6.0
CONNECTIONS = 32
PATIENCE_SECONDS = 60.0
TRANSITIONS = (
    "ticket.registered",
    "review.approved",
    "order.dispatched",
    "order.accepted",
    "order.replied",
    "callback.recorded",
    "ticket.closed",
)
SIZE = """
SELECT relname, pg_total_relation_size(pg_class.oid) FROM pg_class
JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = 'public' AND relkind = 'r'
"""


async def measure(stand: Stand) -> Findings:
    await stand.drained()
    sizes, steps, before = await _sizes(stand), await _steps(stand), stand.machine.cpu()
    done = await stand.load.run(
        "life",
        url=f"{stand.stack.url('intake')}/v1/tickets",
        key=stand.key("front_line"),
        seconds=SECONDS,
        connections=CONNECTIONS,
        bootstrap=stand.stack.bootstrap,
        branches=sorted(stand.facts["branch_keys"]),
        dispatch_url=stand.stack.url("dispatch"),
        callback_key=stand.key("callback"),
    )
    await stand.drained()
    await _all_told(stand)
    cpu, tickets = stand.machine.cpu(), done["done"]
    taken = {kind: count - steps.get(kind, 0) for kind, count in (await _steps(stand)).items()}
    transitions = sum(taken.get(kind, 0) for kind in TRANSITIONS)
    tables = {name: size - sizes.get(name, 0) for name, size in (await _sizes(stand)).items()}
    grown = {service: sum(size for name, size in tables.items() if name[0] == service) for service in SERVICES}
    seconds = done["last_closed_seconds"]
    stand.say(f"{tickets:,} lives in {seconds:.1f} s, {transitions:,} transitions")
    figures = [
        Figure("Tickets from registered to closed", "tickets/s", [tickets / seconds]),
        Figure("Transitions", "/s", [transitions / seconds]),
        Figure("Life of a ticket when as many come as are taken, p50", "ms", [done["life_ms"]["p50"]]),
        Figure("Life of a ticket when as many come as are taken, p99", "ms", [done["life_ms"]["p99"]]),
        Figure("Database, tables and indexes, all four", "bytes/ticket", [sum(grown.values()) / tickets]),
        *(Figure(f"Database of {name}", "bytes/ticket", [size / tickets]) for name, size in grown.items()),
    ]
    notes = [
        f"{CONNECTIONS} connections register for {SECONDS:.0f} s; branches and callback staff answer at once.",
        f"{transitions / tickets:.2f} transitions a ticket; in all {sum(taken.values()) / tickets:.2f} entries in its"
        " timeline.",
    ]
    by_table = {".".join(name): size for name, size in sorted(tables.items()) if size}
    facts = {"done": done, "timeline": taken, "bytes_by_table": by_table}
    used = milliseconds_a_ticket(before, cpu, tickets, SERVERS)
    return Findings(figures, [Cpu("a whole life", [used])], facts, notes)


async def _sizes(stand: Stand) -> dict[tuple[str, str], int]:
    """Bytes of each table with its indexes, by service and name."""
    sizes: dict[tuple[str, str], int] = {}
    for service in SERVICES:
        async with stand.database(service) as connection:
            sizes |= {(service, row[0]): row[1] for row in await connection.fetch(SIZE)}
    return sizes


async def _steps(stand: Stand) -> dict[str, int]:
    """How many entries of each type stand in the timelines."""
    async with stand.database("intake") as connection:
        rows = await connection.fetch("SELECT type, count(*) FROM ticket_timeline GROUP BY type")
    return {row[0]: row[1] for row in rows}


async def _all_told(stand: Stand) -> None:
    """Wait until intake, too, knows of the end of as many tickets as dispatch closed. Raises `TimeoutError`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    async with stand.database("intake") as intake, stand.database("dispatch") as dispatch:
        while True:
            told = await intake.fetchval("SELECT count(*) FROM tickets WHERE status = 'closed'")
            ended = await dispatch.fetchval("SELECT count(*) FROM work_orders WHERE status = 'closed'")
            if told >= ended:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"intake knows of {told} ends, dispatch made {ended}")
            await asyncio.sleep(0.2)


PART = Part("whole_life", "Whole life: registered to closed", 30, measure)
