"""An hour at a steady rate: sizes of tables and indexes, and dead rows, minute by minute.

make bench PARTS=hour SIZE=60        # minutes
"""

import asyncio
import time
from typing import Any

from deploy.local.state import SERVICES
from tests.bench.figures import Cpu, Figure, Findings, Target, milliseconds_a_ticket
from tests.bench.machine import SERVERS
from tests.bench.stand import Part, Stand

MINUTES = 60
RATE = 40.0
EVERY_SECONDS = 30.0
MOST_DEAD = 0.5
BIG = 5_000
"""Rows from which on a table's share of dead ones is judged; a table of ten rows may have any."""

_TABLES = """
SELECT relname AS table, n_live_tup AS live, n_dead_tup AS dead, n_tup_upd AS updates, n_tup_hot_upd AS hot,
    autovacuum_count AS vacuums, pg_relation_size(relid) AS heap, pg_indexes_size(relid) AS indexes
FROM pg_stat_user_tables WHERE n_live_tup + n_dead_tup > 0 ORDER BY pg_total_relation_size(relid) DESC LIMIT 12
"""


async def look(stand: Stand) -> dict[str, Any]:
    """The largest tables of each service now; `seconds` since the part began."""
    found: dict[str, Any] = {"seconds": round(time.monotonic() - stand.began)}
    for service in SERVICES:
        async with stand.database(service) as connection:
            found[service] = [dict(row) for row in await connection.fetch(_TABLES)]
    found["memory_mb"] = stand.machine.memory()
    return found


async def measure(stand: Stand) -> Findings:
    minutes = stand.options.size or MINUTES
    curve = [await look(stand)]
    url, key = f"{stand.stack.url('intake')}/v1/tickets", stand.key("front_line")
    before = stand.machine.cpu()
    job = asyncio.create_task(stand.load.run("paced", url=url, rate=RATE, seconds=minutes * 60.0, key=key))
    while not job.done():
        await asyncio.wait({job}, timeout=EVERY_SECONDS)
        curve.append(await look(stand))
        stand.say(f"largest: {_largest(curve[-1])}")
    done = await job
    await stand.drained()
    cpu = milliseconds_a_ticket(before, stand.machine.cpu(), done["done"], SERVERS)
    curve.append(await look(stand))
    return _findings(minutes, done["done"], curve, cpu)


def _largest(seen: dict[str, Any]) -> str:
    tables = [
        (table["heap"] + table["indexes"], f"{each}.{table['table']}") for each in SERVICES for table in seen[each]
    ]
    return ", ".join(f"{name} {size / 2**20:,.0f} MiB" for size, name in sorted(tables, reverse=True)[:3])


def worst_dead(curve: list[dict[str, Any]]) -> tuple[float, str]:
    """The largest share of dead rows that any big table had at any look, and which table that was."""
    worst = (0.0, "none")
    for seen in curve:
        for service in SERVICES:
            for table in seen[service]:
                rows = table["live"] + table["dead"]
                if rows >= BIG:
                    worst = max(worst, (table["dead"] / rows, f"{service}.{table['table']}"))
    return worst


def grown(curve: list[dict[str, Any]], service: str, of: str) -> int:
    """By how much this figure of all large tables of a service grew from the first look to the last."""
    before = {table["table"]: table[of] for table in curve[0][service]}
    return sum(table[of] - before.get(table["table"], 0) for table in curve[-1][service])


def _findings(minutes: int, tickets: int, curve: list[dict[str, Any]], cpu: dict[str, float]) -> Findings:
    found = Findings()
    share, table = worst_dead(curve)
    found.figures = [Figure(f"Tickets in {minutes} minutes at {RATE:.0f} a second", "", [tickets])]
    for service in SERVICES:
        heap, indexes, updates, hot = (grown(curve, service, of) for of in ("heap", "indexes", "updates", "hot"))
        found.figures += [
            Figure(f"{service}: tables, a ticket", "KiB", [heap / tickets / 1024]),
            Figure(f"{service}: indexes, a ticket", "KiB", [indexes / tickets / 1024]),
            Figure(f"{service}: updates that wrote no index (HOT)", "%", [100 * hot / max(updates, 1)]),
        ]
    found.figures.append(Figure(f"Dead rows at most ({table})", "of all", [share], target=Target("at most", MOST_DEAD)))
    found.cpu = [Cpu(f"at {RATE:.0f} a second", [cpu])]
    found.facts = {"curve": curve}
    found.notes = ["Sizes, dead rows and vacuums of every large table, every half minute, stand in the JSON."]
    return found


PART = Part("hour", "An hour: tables, indexes and dead rows", 3_700, measure, by_default=False, spoils=True)
