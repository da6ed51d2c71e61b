"""Growth: accept, end to end and deadlines with many tickets stored, beside the same stack when it was empty.

What PostgreSQL spends is shown in two: its sessions, which carry out the statements and must not notice what is stored,
and its background (vacuum, checkpoints, writers), which comes once in a while and so tells little in a few seconds.

The stored tickets are copies of 32 that went through the whole of their life (`rows`); one in 32 is still open. Their
audit rows bear no seals and their events are those of the last week only; Kafka holds none of them. While the copies
are written the services are held still and the indexes are dropped and made again; the rows are frozen and analysed,
as autovacuum would have done over two years.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg

from deploy.local.state import SERVICES
from tests.bench import rows
from tests.bench.bodies import CATEGORIES, CITIES, complaint
from tests.bench.deadlines import A_SECOND, LEAD_SECONDS, Clocks, fire
from tests.bench.end_to_end import through
from tests.bench.figures import Cpu, Figure, Findings, Target, milliseconds_a_ticket, percentiles_ms
from tests.bench.machine import BACKGROUND, POSTGRES, SERVERS
from tests.bench.stand import Part, Stand
from tests.support.journey import finish, register, wait_for_status

SHORT = 20_000
TEMPLATES = 32
CONNECTIONS = 32
ACCEPT_SECONDS = 2.0
THROUGH_SECONDS = 5.0
CLOCKS = 500
DOORS = 8
AT_A_TIME = 6
"""Tables that are filled beside each other: two cores, and some wait for the disk."""
LONG = 100_000
"""Tickets from which on it is worth saying how far the storing is, and waiting for what comes of it."""
SETTLE_SECONDS = 70.0
"""Autovacuum looks at each database once a minute."""
WITHIN = 1.15
SESSION = {"synchronous_commit": "off", "maintenance_work_mem": "256MB", "max_parallel_maintenance_workers": "0"}


@dataclass
class Speeds:
    """What was measured at one size, one entry a round; CPU milliseconds a ticket, or a clock, by process."""

    accept: list[float] = field(default_factory=list)
    accept_cpu: list[dict[str, float]] = field(default_factory=list)
    through: list[float] = field(default_factory=list)
    through_cpu: list[dict[str, float]] = field(default_factory=list)
    late_p99: list[float] = field(default_factory=list)
    clock_cpu: list[dict[str, float]] = field(default_factory=list)


async def speeds(stand: Stand, clocks: Clocks, connection: Any) -> Speeds:
    found = Speeds()
    url, key = f"{stand.stack.url('intake')}/v1/tickets", stand.key("front_line")
    await through(stand, 1.0)
    rounds = stand.options.rounds if stand.options.named else 1
    for number in range(1, rounds + 1):
        before = stand.machine.cpu()
        with stand.machine.held("review", "dispatch", "sla"):
            done = await stand.load.run("closed", url=url, connections=CONNECTIONS, seconds=ACCEPT_SECONDS, key=key)
            found.accept_cpu.append(
                milliseconds_a_ticket(before, stand.machine.cpu(), done["done"], ("intake", POSTGRES))
            )
        found.accept.append(done["rate"])
        await stand.drained()
        before = stand.machine.cpu()
        run = await through(stand, THROUGH_SECONDS)
        found.through.append(run.rate)
        behind = milliseconds_a_ticket(before, stand.machine.cpu(), run.done["done"], (BACKGROUND,))
        found.through_cpu.append(run.cpu | behind)
        with stand.machine.held("intake", "review", "dispatch"):
            fired = await fire(stand, clocks, connection, CLOCKS, A_SECOND, LEAD_SECONDS)
        found.late_p99.append(percentiles_ms(fired.late)["p99"])
        found.clock_cpu.append({name: fired.cpu[name] for name in ("sla", POSTGRES, BACKGROUND)})
        stand.say(
            f"round {number}: accept {done['rate']:,.0f}/s, end to end {run.rate:,.0f}/s and"
            f" {sum(run.cpu.values()):.2f} ms, deadlines p99 {found.late_p99[-1]:,.0f} ms"
        )
    return found


async def templates(stand: Stand) -> list[tuple[UUID, int]]:
    """Tickets that went through everything, and one that its branch has: (id, acceptance in Unix milliseconds).

    Each of another problem, so that none is part of an incident.
    """
    problems = [(category, *place) for category in CATEGORIES for place in CITIES][:TEMPLATES]
    stack, customers = stand.stack, time.time_ns() // 1_000_000 % 10**10

    def made() -> list[str]:
        tickets = [
            (register(stack, complaint(*problem, f"{customers + place:010d}")), problem[1])
            for place, problem in enumerate(problems)
        ]
        for ticket, _ in tickets:
            wait_for_status(stack, ticket["ticket_no"], "dispatched")
        with ThreadPoolExecutor(DOORS) as doors:
            list(doors.map(lambda each: finish(stack, each[0]["ticket_no"], each[1]), tickets[1:]))
        for ticket, _ in tickets[1:]:
            wait_for_status(stack, ticket["ticket_no"], "closed")
        return [ticket["ticket_id"] for ticket, _ in tickets]

    ids = await asyncio.to_thread(made)
    await stand.drained()
    async with stand.database("intake") as connection:
        found = await connection.fetch(
            "SELECT ticket_id, (extract(epoch FROM accepted_at) * 1000)::bigint FROM tickets"
            " WHERE ticket_id = ANY($1::text[]::uuid[])",
            ids,
        )
    return [(row[0], row[1]) for row in found]


async def store(stand: Stand, tickets: Sequence[tuple[UUID, int]], count: int) -> float:
    """Store so many copies, some tables at a time; the seconds it took."""
    copies = rows.Copies(count, int(time.time() * 1000) - rows.GRACE_MS - rows.SPAN_MS)
    room = asyncio.Semaphore(AT_A_TIME)

    async def one(service: str, filled: rows.Filled) -> None:
        async with room, stand.database(service) as connection:
            for name, value in SESSION.items():
                await connection.execute(f"SET {name} = '{value}'")
            await rows.take_templates(connection, service, tickets)
            last = count // rows.RECENT_SHARE if filled.recent else count
            again = [] if filled.recent else await rows.drop_indexes(connection, filled.table)
            for first in range(0, last, rows.CHUNK):
                await rows.fill(connection, filled, copies, len(tickets), first, min(first + rows.CHUNK, last) - 1)
                # At once, while the pages are in memory: later each would be read, written and logged whole once more.
                await connection.execute(f"VACUUM (FREEZE) {filled.table}")
            for statement in again:
                await connection.execute(statement)
            await connection.execute(f"ANALYZE {filled.table}")
        if count >= LONG:
            stand.say(f"{service}.{filled.table} has its {last:,}")

    began = time.monotonic()
    with stand.machine.held(*SERVICES):
        # The plumbing is small and comes last, so that no large table is left over for one core alone.
        tables = [(service, filled) for service in SERVICES for filled in rows.FILLED[service]]
        tables.sort(key=lambda each: each[1] in rows.PLUMBING)
        await asyncio.gather(*(one(service, filled) for service, filled in tables))
    return time.monotonic() - began


async def settle(stand: Stand) -> None:
    """Let PostgreSQL's background be done with what was stored: it would stand in every figure behind it."""
    connection = await asyncpg.connect(stand.superuser_dsn("postgres"))
    try:
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    await asyncio.sleep(SETTLE_SECONDS)


async def sizes(stand: Stand) -> dict[str, dict[str, int]]:
    """Bytes of the largest tables with their indexes, by service."""
    found: dict[str, dict[str, int]] = {}
    for service in SERVICES:
        async with stand.database(service) as connection:
            tables = await connection.fetch(
                "SELECT relname, pg_total_relation_size(relid) AS bytes FROM pg_stat_user_tables"
                " ORDER BY 2 DESC LIMIT 8"
            )
            found[service] = {row["relname"]: row["bytes"] for row in tables}
            found[service]["all"] = await connection.fetchval("SELECT pg_database_size(current_database())")
    return found


async def measure(stand: Stand) -> Findings:
    count = stand.options.size or SHORT
    tickets = await templates(stand)
    async with stand.database("sla") as connection:
        clocks = Clocks(connection)
        await clocks.prepare(str(tickets[0][0]))
        empty = await speeds(stand, clocks, connection)
        before = await sizes(stand)
        seconds = await store(stand, tickets, count)
        after = await sizes(stand)
        stored = sum(after[each]["all"] - before[each]["all"] for each in SERVICES)
        stand.say(f"{count:,} stored in {seconds:,.0f} s, {stored / count / 1024:.1f} KiB a ticket")
        if count >= LONG:
            await settle(stand)
        full = await speeds(stand, clocks, connection)
    found = _findings(count, empty, full)
    found.figures.append(Figure("Disk of a stored ticket, four databases", "KiB", [stored / count / 1024]))
    found.facts = {"sizes": {"empty": before, "full": after}, "stored_seconds": seconds}
    found.notes = [
        f"Stored by INSERT … SELECT in each database, {count / seconds:,.0f} tickets a second; left out: seals of the"
        " audit trail, events older than a week, and whatever Kafka would hold.",
        "Background of PostgreSQL: vacuum, checkpoints and writers. Large sizes are measured when they are done with"
        " the rows just stored.",
    ]
    return found


def _findings(count: int, empty: Speeds, full: Speeds) -> Findings:
    found = Findings()
    within, name = Target("at most", WITHIN, "ratio"), f"with {count:,} stored"

    def sums(cpu: list[dict[str, float]], *names: str) -> list[float]:
        return [sum(each[name] for name in names) for each in cpu]

    def split(what: str, full: list[dict[str, float]], empty: list[dict[str, float]]) -> list[Figure]:
        mine, before = ([each[POSTGRES] - each[BACKGROUND] for each in cpu] for cpu in (full, empty))
        return [
            Figure(f"… of it PostgreSQL's sessions, {what}", "ms", mine, before, "empty", within),
            Figure(
                f"… of it PostgreSQL's background, {what}",
                "ms",
                sums(full, BACKGROUND),
                sums(empty, BACKGROUND),
                "empty",
            ),
        ]

    def cost(title: str, full: list[dict[str, float]], empty: list[dict[str, float]], *names: str) -> Figure:
        return Figure(title, "ms", sums(full, *names), sums(empty, *names), "empty", within)

    found.figures = [
        Figure(f"Accept, {CONNECTIONS} connections, {name}", "/s", full.accept, empty.accept, "empty"),
        cost("… CPU a ticket", full.accept_cpu, empty.accept_cpu, "intake", POSTGRES),
        Figure(f"End to end as fast as it goes, {name}", "tickets/s", full.through, empty.through, "empty"),
        cost("… CPU a ticket, all", full.through_cpu, empty.through_cpu, *SERVERS),
        *split("a ticket", full.through_cpu, empty.through_cpu),
        Figure(f"Deadlines at {A_SECOND} a second, late p99, {name}", "ms", full.late_p99, empty.late_p99, "empty"),
        cost("… CPU a clock", full.clock_cpu, empty.clock_cpu, "sla", POSTGRES),
        *split("a clock", full.clock_cpu, empty.clock_cpu),
    ]
    for title, speed in (("empty", empty), (name, full)):
        found.cpu += [
            Cpu(f"end to end, {title}", [{each: cpu[each] for each in SERVERS} for cpu in speed.through_cpu]),
            Cpu(f"accept, {title}", speed.accept_cpu),
        ]
    return found


PART = Part("growth", "Growth: beside an empty stack", 80, measure, spoils=True)
