"""Scale-out: one, two and four instances of a service on real Apache Kafka, all on the same cores.

The machine has no more cores for more instances, so this shows what does not depend on cores: that the partitions are
shared, that nothing is lost or doubled, and what a message costs when more processes read fewer partitions each. What
that means on more machines is reckoned in docs/scaling.md.
"""

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from deploy.local.state import SERVICES
from tests.bench.end_to_end import through
from tests.bench.figures import Figure, Findings, Target
from tests.bench.instances import another
from tests.bench.machine import POSTGRES
from tests.bench.stand import Part, Stand

SCALED = ("review", "sla")
INSTANCES = (1, 2, 4)
SECONDS = 6.0
RATE = 60.0
IDLE_SECONDS = 4.0
LOOK_SECONDS = 0.5
LOOKS = 80

# Each lease on a partition is an advisory lock of the session of the instance that reads it.
_SHARES = """
SELECT count(*)::int FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid::int8 = $1::int8 GROUP BY pid ORDER BY 1 DESC
"""
_ROLE = zlib.crc32(b"consumer")
_READ = "SELECT coalesce(sum(next_offset), 0)::int8 FROM consumer_offsets"
_TWICE = "SELECT count(*) - count(DISTINCT (topic, subject, version, type)) FROM outbox WHERE version IS NOT NULL"
_TICKETS = {"intake": "tickets", "review": "reviews", "dispatch": "work_orders", "sla": "complaint_facts"}


@dataclass
class Run:
    """One number of instances: the partitions of each, the messages they applied, and CPU milliseconds a message; at
    rest CPU milliseconds a second, all instances together."""

    service: str
    shares: list[int]
    messages: int
    cpu: dict[str, float]
    at_rest: float

    @property
    def instances(self) -> int:
        return len(self.shares)


@contextlib.asynccontextmanager
async def instances(stand: Stand, service: str, count: int) -> AsyncIterator[list[str]]:
    """So many processes of a service in all; the names under which the machine counts them."""
    async with contextlib.AsyncExitStack() as more:
        names = [service]
        for number in range(1, count):
            pid = await more.enter_async_context(another(stand, service, number))
            names.append(f"{service} {number + 1}")
            stand.machine.watch(names[-1], pid)
        yield names


async def shares(stand: Stand, service: str, wanted: int) -> list[int]:
    """How many partitions each instance reads, once they are shared evenly or patience is at its end."""
    found: list[int] = []
    async with stand.database(service) as connection:
        for _ in range(LOOKS):
            found = [row[0] for row in await connection.fetch(_SHARES, _ROLE)]
            if len(found) == wanted and max(found) - min(found) <= 1:
                break
            await asyncio.sleep(LOOK_SECONDS)
    return found


async def run(stand: Stand, service: str, count: int) -> Run:
    async with instances(stand, service, count) as names, stand.database(service) as connection:
        shared = await shares(stand, service, count)
        await stand.drained()
        before = stand.machine.cpu()
        await asyncio.sleep(IDLE_SECONDS)
        after = stand.machine.cpu()
        at_rest = sum(after[name] - before[name] for name in names) * 1000 / IDLE_SECONDS
        read, before = await connection.fetchval(_READ), after
        await through(stand, SECONDS, RATE)
        after, messages = stand.machine.cpu(), await connection.fetchval(_READ) - read
    spent = {"service": sum(after[name] - before[name] for name in names), POSTGRES: after[POSTGRES] - before[POSTGRES]}
    cpu = {name: seconds * 1000 / max(messages, 1) for name, seconds in spent.items()}
    return Run(service, shared, messages, cpu, at_rest)


async def faults(stand: Stand) -> tuple[int, int]:
    """Tickets that some service lacks, and events that were published under one number twice."""
    counts, twice = {}, 0
    for service, table in _TICKETS.items():
        async with stand.database(service) as connection:
            counts[service] = await connection.fetchval(f"SELECT count(*) FROM {table}")
            twice += await connection.fetchval(_TWICE)
    async with stand.database("intake") as connection:
        twice += await connection.fetchval(
            "SELECT count(*) - count(DISTINCT ticket_id) FROM ticket_timeline WHERE type = 'order.dispatched'"
        )
    return sum(abs(counts["intake"] - counts[service]) for service in SERVICES), twice


async def measure(stand: Stand) -> Findings:
    runs = []
    await through(stand, 1.0)
    for service in SCALED:
        for count in INSTANCES:
            runs.append(await run(stand, service, count))
            stand.say(
                f"{count} of {service}: partitions {runs[-1].shares}, {runs[-1].cpu['service']:.2f} ms a message,"
                f" at rest {runs[-1].at_rest:.1f} ms a second"
            )
    lost, twice = await faults(stand)
    return _findings(stand.options.broker, runs, lost, twice)


def _findings(broker: str, runs: list[Run], lost: int, twice: int) -> Findings:
    found = Findings()
    alone = {each.service: each for each in runs if each.instances == 1}
    for each in runs:
        name = f"{each.service}, {each.instances} instance{'s' if each.instances > 1 else ''}"
        one = alone[each.service]
        found.figures += [
            Figure(f"{name}: partitions of one", "", each.shares),
            Figure(f"{name}: CPU a message", "ms", [each.cpu["service"]], [one.cpu["service"]], "one instance"),
            Figure(f"{name}: CPU at rest", "ms/s", [each.at_rest], [one.at_rest], "one instance"),
        ]
    found.figures += [
        Figure("Tickets that a service lacks", "", [lost], target=Target("at most", 0)),
        Figure("Events twice under one number, orders twice", "", [twice], target=Target("at most", 0)),
    ]
    found.facts = {"runs": [vars(each) for each in runs]}
    found.notes = [f"Broker: {broker}. {RATE:.0f} tickets a second, all instances on the same cores."]
    return found


PART = Part("scale", "Scale-out: one, two and four instances", 150, measure, by_default=False, spoils=True)
