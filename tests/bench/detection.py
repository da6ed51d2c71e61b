"""Detection: from the answer to the tenth complaint of a problem to `incident.opened` on the topic, at full ingest; and
one hot problem with thousands of members beside the others.

Full ingest is three quarters of what all services together kept up with in a closed loop just before, the complaints
watched among them: at more than they carry, the time would be that of a growing backlog. The others are spread over
every problem that the load generator knows; the problems watched are not among those.
"""

import asyncio
import contextlib
import itertools
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.contracts.topics import SLA, topic_file
from tests.bench import rows
from tests.bench.bodies import CITIES, complaint
from tests.bench.end_to_end import through as through_all
from tests.bench.figures import Cpu, Figure, Findings, Target, milliseconds_a_ticket, percentiles_ms
from tests.bench.machine import SERVERS
from tests.bench.stand import Part, Stand

WATCHED = ("network.coverage.urban_village", "network.coverage.industrial_area", "network.data_card.unusable")
HOT = "network.data_card.other"
THRESHOLD = 10
FULL_SECONDS = 6.0
SHARE = 0.75
A_PROBLEM_SECONDS = 0.7
HOT_AN_HOUR = 20_000
PATIENCE_SECONDS = 60.0

Problem = tuple[str, str, str]
"""Category, city, district."""


class Incidents:
    """When each problem's incident was opened, and when each ticket joined one, as read from the topic of sla."""

    def __init__(self) -> None:
        self.opened: dict[str, float] = {}
        self.joined: dict[str, float] = {}
        self._waiting: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def until_opened(self, key: str) -> None:
        await self._waiting[key].wait()

    async def read(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            for records in (await consumer.getmany(timeout_ms=50)).values():
                now = time.perf_counter()
                for record in records:
                    kind = dict(record.headers)["ce_type"]
                    if kind == b"incident.opened":
                        key = json.loads(record.value)["problem"]["key"]
                        self.opened.setdefault(key, now)
                        self._waiting[key].set()
                    elif kind == b"incident.joined":
                        self.joined.setdefault(record.key.decode(), now)


@contextlib.asynccontextmanager
async def incidents(stand: Stand) -> AsyncIterator[Incidents]:
    consumer = AIOKafkaConsumer(bootstrap_servers=stand.stack.bootstrap, enable_auto_commit=False, fetch_max_wait_ms=10)
    await consumer.start()
    count = next(topic.partitions for topic in topic_file().topics if topic.name == SLA)
    partitions = [TopicPartition(SLA, number) for number in range(count)]
    consumer.assign(partitions)
    await consumer.seek_to_end(*partitions)
    for partition in partitions:
        await consumer.position(partition)
    seen = Incidents()
    task = asyncio.create_task(seen.read(consumer))
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await consumer.stop()


class Front:
    """Single complaints, with their answers."""

    def __init__(self, stand: Stand, client: httpx.AsyncClient) -> None:
        self._url = f"{stand.stack.url('intake')}/v1/tickets"
        self._headers = {"Authorization": f"Bearer {stand.key('front_line')}"}
        self._client = client
        self._numbers = itertools.count(int(time.time()) % 1000 * 10_000_000 + 5_000_000)

    async def complain(self, problem: Problem) -> tuple[str, float]:
        """The ticket's id, and when its answer was there (monotonic seconds)."""
        body = complaint(*problem, f"{next(self._numbers):010d}")
        answer = await self._client.post(self._url, json=body, headers=self._headers)
        answer.raise_for_status()
        return str(answer.json()["ticket_id"]), time.perf_counter()


async def tenth(front: Front, problem: Problem, seen: Incidents) -> float:
    """Seconds from the answer to the tenth complaint to the incident on the topic."""
    for _ in range(THRESHOLD):
        _, answered = await front.complain(problem)
    key = f"{problem[0]}|{problem[1]}"
    await asyncio.wait_for(seen.until_opened(key), PATIENCE_SECONDS)
    return max(0.0, seen.opened[key] - answered)


async def through(stand: Stand, front: Front, seen: Incidents, problems: list[Problem], rate: float) -> list[float]:
    """One problem after another comes to its tenth complaint, beside complaints at this rate."""
    seconds = len(problems) * A_PROBLEM_SECONDS
    url, key = f"{stand.stack.url('intake')}/v1/tickets", stand.key("front_line")
    beside = asyncio.create_task(stand.load.run("paced", url=url, rate=rate, seconds=seconds, key=key))
    tasks = []
    for problem in problems:
        tasks.append(asyncio.create_task(tenth(front, problem, seen)))
        await asyncio.sleep(A_PROBLEM_SECONDS)
    waited = list(await asyncio.gather(*tasks))
    await beside
    return waited


async def hot_members(stand: Stand, problem: Problem, ticket_id: str) -> None:
    """Give the problem's open incident what it would have after an hour: 20,000 members."""
    facts = next(each for each in rows.FILLED["sla"] if each.table == "complaint_facts")
    async with stand.database("sla") as connection:
        member = await connection.fetchrow(
            "SELECT ticket_id, incident_id, (extract(epoch FROM accepted_at) * 1000)::bigint AS ms FROM complaint_facts"
            " WHERE ticket_id = $1::text::uuid",
            ticket_id,
        )
        await rows.take_templates(connection, "sla", [(member["ticket_id"], member["ms"])])
        instead = {
            "problem_key": f"'{problem[0]}|{problem[1]}'",
            "incident_id": f"'{member['incident_id']}'::uuid",
            "accepted_at": f"now() - n * interval '3600 seconds' / {HOT_AN_HOUR}",
        }
        filled = rows.Filled(facts.table, instead={**facts.instead, **instead})
        copies = rows.Copies(HOT_AN_HOUR, member["ms"] - rows.SPAN_MS)
        await rows.fill(connection, filled, copies, 1, 0, HOT_AN_HOUR - 1)
        await connection.execute(
            "UPDATE incidents SET member_count = member_count + $1, first_at = now() - interval '1 hour'"
            " WHERE incident_id = $2",
            HOT_AN_HOUR,
            member["incident_id"],
        )
        await connection.execute("ANALYZE complaint_facts")


async def keep_hot(front: Front, problem: Problem, sent: dict[str, float]) -> None:
    """Complaints of the hot problem at its rate, until cancelled."""
    while True:
        ticket, answered = await front.complain(problem)
        sent[ticket] = answered
        await asyncio.sleep(3600 / HOT_AN_HOUR)


async def measure(stand: Stand) -> Findings:
    problems = [(category, city, district) for category in WATCHED for city, district in CITIES]
    half = len(problems) // 2
    hot: Problem = (HOT, *CITIES[0])
    async with incidents(stand) as seen, httpx.AsyncClient(trust_env=False, timeout=30) as client:
        front = Front(stand, client)
        full = await through_all(stand, FULL_SECONDS)
        rate = max(SHARE * full.whole_rate - THRESHOLD / A_PROBLEM_SECONDS, 1.0)
        await stand.drained()
        stand.say(f"complaints at {rate:,.0f} a second beside it")
        before = stand.machine.cpu()
        without = await through(stand, front, seen, problems[:half], rate)
        cpu = milliseconds_a_ticket(before, stand.machine.cpu(), int(rate * half * A_PROBLEM_SECONDS), SERVERS)
        await stand.drained()
        stand.say(f"without a hot problem: {percentiles_ms(without)}")
        await tenth(front, hot, seen)
        member, _ = await front.complain(hot)
        await stand.drained()
        await hot_members(stand, hot, member)
        sent: dict[str, float] = {}
        heat = asyncio.create_task(keep_hot(front, hot, sent))
        before = stand.machine.cpu()
        beside = await through(stand, front, seen, problems[half:], rate)
        heat.cancel()
        await asyncio.gather(heat, return_exceptions=True)
        heated = milliseconds_a_ticket(before, stand.machine.cpu(), int(rate * half * A_PROBLEM_SECONDS), SERVERS)
        await stand.drained()
        joins = [seen.joined[ticket] - answered for ticket, answered in sent.items() if ticket in seen.joined]
    stand.say(f"beside a hot problem: {percentiles_ms(beside)}")
    return _findings(rate, without, beside, len(sent), joins, cpu, heated)


def _findings(
    rate: float,
    without: list[float],
    beside: list[float],
    sent: int,
    joins: list[float],
    cpu: dict[str, float],
    heated: dict[str, float],
) -> Findings:
    found = Findings()
    plain, hot, joined = percentiles_ms(without), percentiles_ms(beside), percentiles_ms(joins)
    found.figures = [
        Figure("Complaints beside it", "/s", [rate]),
        Figure(f"Tenth complaint to incident.opened, p50 of {len(without)}", "ms", [plain["p50"]]),
        Figure(
            f"Tenth complaint to incident.opened, p99 of {len(without)}",
            "ms",
            [plain["p99"]],
            target=Target("at most", 1000),
        ),
        Figure(f"The same beside a hot problem, p50 of {len(beside)}", "ms", [hot["p50"]], [plain["p50"]], "without"),
        Figure(
            f"The same beside a hot problem, p99 of {len(beside)}",
            "ms",
            [hot["p99"]],
            [plain["p99"]],
            "without",
            Target("at most", 1000),
        ),
        Figure(f"The hot problem: complaint to incident.joined, p99 of {len(joins)}", "ms", [joined["p99"]]),
        Figure("The hot problem: complaints that did not join", "", [sent - len(joins)], target=Target("at most", 0)),
    ]
    found.cpu = [Cpu("without a hot problem", [cpu]), Cpu("beside a hot problem", [heated])]
    found.notes = [
        f"The hot problem takes {HOT_AN_HOUR:,} complaints an hour, and its incident has {HOT_AN_HOUR:,} members of"
        " the last hour from the start.",
    ]
    found.facts = {"without_ms": [each * 1000 for each in without], "beside_ms": [each * 1000 for each in beside]}
    return found


PART = Part("detection", "Detection: the tenth complaint of a problem", 65, measure, spoils=True)
