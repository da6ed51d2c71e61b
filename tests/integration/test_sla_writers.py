"""Many processes of sla on one database at once."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.messaging.events import Event
from tests.support.parts import Databases
from tests.support.sla import (
    HOUR,
    MINUTE,
    Bench,
    at_once,
    closed,
    registered,
    running_bench,
    told,
)


async def test_two_writers_open_one_incident(databases: Databases) -> None:
    url = await databases.fresh("sla")
    async with running_bench(databases, url) as one, running_bench(databases, url) as other:
        start = await one.now() - HOUR
        complaints = [registered(start + n * MINUTE) for n in range(20)]
        await asyncio.gather(one.one_by_one(*complaints[::2]), other.one_by_one(*complaints[1::2]))
        assert await one.incidents() == [("open", 20)]
        assert await one.holes() == []


async def test_a_repeat_is_found_when_two_processes_read_its_two_events_at_once(databases: Databases) -> None:
    url = await databases.fresh("sla")
    async with running_bench(databases, url) as one, running_bench(databases, url) as other:
        start = await one.now() - 48 * HOUR
        earlier, again = registered(start, customer="same"), registered(start + 30 * HOUR, customer="same")
        await one.apply(earlier)
        await at_once(one, closed(earlier, start + 10 * HOUR), other, again)
        assert await one.escalations(again) == ["repeat"]


async def test_an_appeal_is_found_when_two_processes_read_both_complaints_at_once(databases: Databases) -> None:
    url = await databases.fresh("sla")
    async with running_bench(databases, url) as one, running_bench(databases, url) as other:
        start = await one.now() - 10 * HOUR
        first, second = registered(start, customer="same"), registered(start + HOUR, customer="same", city="zibo")
        await at_once(one, first, other, second)
        assert await one.escalations(second) == ["appeal"]


@dataclass
class Race:
    """Two projections and two sweeps on one database. The sweepers' own clocks are an hour fast: only the database's
    time may count."""

    feeders: Sequence[Bench]
    sweepers: Sequence[Bench]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    fired: int = 0

    async def feed(self, bench: Bench, events: Sequence[Event], sizes: random.Random) -> None:
        place = 0
        while place < len(events):
            size = sizes.choice([5, 20, 60])
            await bench.apply(*events[place : place + size])
            place += size
            await asyncio.sleep(0.01)

    async def sweep(self, bench: Bench) -> None:
        while not self.stop.is_set():
            self.fired += len((await bench.sweep(limit=50)).fired)
            await asyncio.sleep(0.005)

    async def run(self, first: list[list[Event]], then: list[list[Event]]) -> None:
        sizes = random.Random(4)
        async with asyncio.TaskGroup() as sweeping:
            for each in self.sweepers:
                sweeping.create_task(self.sweep(each))
            for streams in (first, then):
                async with asyncio.TaskGroup() as feeding:
                    for bench, events in zip(self.feeders, streams, strict=True):
                        feeding.create_task(self.feed(bench, events, sizes))
            await asyncio.sleep(1.0)
            self.stop.set()


async def test_two_projections_and_two_sweeps_at_once(databases: Databases) -> None:
    url = await databases.fresh("sla")
    async with (
        running_bench(databases, url) as one,
        running_bench(databases, url) as two,
        running_bench(databases, url) as three,
        running_bench(databases, url) as four,
    ):
        now = await one.now()
        choose = random.Random(3)
        for fast in (three, four):
            fast.desk.clock.sync(now + HOUR)
        tickets = [
            registered(
                # Most are long overdue; the deadlines of some come while the test runs, of others within the fast hour.
                now - choose.choice([70 * HOUR, 48 * HOUR, 36 * HOUR]) + choose.uniform(-0.02, 0.05) * MINUTE * 30,
                city=choose.choice(["jinan", "qingdao"]),
                customer=f"k{n % 200}",
            )
            for n in range(600)
        ]
        later = [told(each, now - MINUTE, now - HOUR) for each in tickets]
        crossed = [later[1::2], later[::2]]
        race = Race([one, two], [three, four])
        await race.run([tickets[::2], tickets[1::2]], crossed)
        for each in (three, four):
            each.desk.clock.sync(await one.now())
        end = await one.now()
        race.fired += sum(len(done.fired) for done in await three.sweep_all())

        assert race.fired > 600
        assert await one.holes() == []
        twice = await one.query(
            "SELECT subject FROM (SELECT subject, type, convert_from(payload, 'UTF8')::jsonb AS data FROM outbox"
            " WHERE type IN ('clock.warned', 'clock.breached')) AS moments"
            " GROUP BY subject, type, data->'clock'->>'kind', data->'clock'->>'cycle' HAVING count(*) > 1"
        )
        assert twice == []
        assert await one.query("SELECT 1 FROM escalations GROUP BY clock_id, rung HAVING count(clock_id) > 1") == []
        early = await one.query(
            "SELECT 1 FROM clocks WHERE warned_at < warn_at OR breached_at < due_at"
            " OR (breached_at = due_at AND boundary = 'after')"
        )
        assert early == []
        # By the database's clock: `created_at` is when the transaction that published the moment began.
        ahead = await one.query(
            "SELECT 1 FROM outbox WHERE type IN ('clock.warned', 'clock.breached')"
            " AND time > created_at + interval '1 minute'"
        )
        assert ahead == []
        verdicts = await one.query(
            "SELECT DISTINCT state FROM clocks WHERE kind = 'first_reply' AND due_at > :end", end=end
        )
        assert [row[0] for row in verdicts] == ["met"]
        assert await one.one("SELECT count(*) FROM clocks WHERE next_at <= clock_timestamp() - interval '1 s'") == 0
        assert await one.one("SELECT count(*) FROM incidents WHERE status = 'open'") <= 2
        assert await one.one("SELECT count(*) FROM clocks WHERE kind = 'first_reply' AND stopped_at IS NULL") == 0
