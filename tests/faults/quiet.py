"""When is a stack at rest? Everything is ready, every outbox is empty, everything published is applied.

Also here: the watcher that notes when PostgreSQL itself did not answer, asked past every proxy.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from deploy.local.postgres import database_name
from deploy.local.state import SERVICES
from shared.contracts.topics import INCARNATION, consumed_topics, topic_file
from tests.faults.faults import DATABASE_ERRORS, Outage
from tests.faults.stack import FaultStack

PAUSE_SECONDS = 0.5
WATCH_SECONDS = 0.25
IN_A_ROW = 3

# A parked event is explained by a dead letter of its ticket; and, as long as tickets are under way, by an event that
# waits for what another service has not decided yet (no order before the approval), or by standing behind such a one.
FIGURES = """
SELECT (SELECT count(*) FROM outbox WHERE published_at IS NULL) AS outbox,
    (SELECT count(*) FROM parked_events) AS parked,
    (SELECT count(*) FROM parked_events AS p WHERE
        EXISTS (SELECT 1 FROM dead_letters AS d
            WHERE d.topic = p.topic AND d.record_key = convert_to(p.subject::text, 'UTF8'))
        OR $1 AND EXISTS (SELECT 1 FROM parked_events AS w
            WHERE w.publisher = p.publisher AND w.subject = p.subject AND w.version <= p.version
                AND w.reason NOT LIKE 'waits for version %')) AS explained,
    (SELECT count(*) FROM dead_letters) AS dead
"""


@dataclass
class State:
    """What still moves, in all four services together, and who is not ready and why."""

    outbox: int
    lag: int
    parked: int
    explained: int
    dead: int
    unready: dict[str, str]

    @property
    def quiet(self) -> bool:
        return not self.outbox and not self.lag and self.parked == self.explained and not self.unready

    def __str__(self) -> str:
        text = f"outbox {self.outbox}, lag {self.lag}, parked {self.parked} ({self.explained} explained)"
        return text + "".join(f"; {name}: {why}" for name, why in self.unready.items())


async def look(stack: FaultStack, under_way: bool) -> State:
    """The state now; `under_way` says that tickets may still wait for people. Raises what the database or the broker
    raises while they are away."""
    async with asyncio.timeout(15):
        unready = await _unready(stack)
        outbox = lag = parked = explained = dead = 0
        ends = await _ends(stack)
        for service in SERVICES:
            connection = await asyncpg.connect(stack.dsn(database_name(service)), timeout=5)
            try:
                row = await connection.fetchrow(FIGURES, under_way)
                offsets = await connection.fetch("SELECT topic, partition, next_offset FROM consumer_offsets")
            finally:
                await connection.close()
            outbox, parked = outbox + row["outbox"], parked + row["parked"]
            explained, dead = explained + row["explained"], dead + row["dead"]
            stands = {(each["topic"], each["partition"]): each["next_offset"] for each in offsets}
            wanted = consumed_topics(service)
            lag += sum(abs(end - stands.get(tuple(at), 0)) for at, end in ends.items() if at.topic in wanted)
    return State(outbox, lag, parked, explained, dead, unready)


async def _unready(stack: FaultStack) -> dict[str, str]:
    found: dict[str, str] = {}
    async with httpx.AsyncClient(timeout=8, trust_env=False) as client:
        for service in SERVICES:
            try:
                answer = await client.get(f"http://127.0.0.1:{stack.layout.ports[service]}/health/ready")
                if answer.status_code != httpx.codes.OK:
                    found[service] = answer.text[:300]
            except httpx.HTTPError as error:
                found[service] = type(error).__name__
    return found


async def _ends(stack: FaultStack) -> dict[TopicPartition, int]:
    consumer = AIOKafkaConsumer(bootstrap_servers=stack.layout.bootstrap, request_timeout_ms=5_000)
    try:
        await consumer.start()
        topics = [topic for topic in topic_file().topics if topic.name != INCARNATION and "{" not in topic.name]
        partitions = [TopicPartition(topic.name, number) for topic in topics for number in range(topic.partitions)]
        return dict(await consumer.end_offsets(partitions))
    finally:
        with suppress(KafkaError, OSError, TimeoutError):
            await asyncio.wait_for(consumer.stop(), 3)


async def quiet(stack: FaultStack, limit: float, *, under_way: bool) -> tuple[float | None, State | None]:
    """Wait for rest: seconds until it began (None when it did not within the limit), and the last state seen."""
    began, at_rest, state = time.monotonic(), 0, None
    first = began
    while True:
        moment = time.monotonic()
        try:
            state = await look(stack, under_way)
            calm = state.quiet
        except (*DATABASE_ERRORS, KafkaError):
            calm = False
        if calm:
            first = moment if at_rest == 0 else first
            at_rest += 1
            if at_rest == IN_A_ROW:
                return first - began, state
        else:
            at_rest = 0
            if moment - began > limit:
                return None, state
        await asyncio.sleep(PAUSE_SECONDS)


async def watch_database(stack: FaultStack, outages: list[Outage]) -> None:
    """Note every time in which PostgreSQL did not answer, until cancelled."""
    connection: Any = None
    down: Outage | None = None
    while True:
        now = time.time()
        try:
            if connection is None:
                connection = await asyncpg.connect(stack.dsn(), timeout=2)
            await connection.fetchval("SELECT 1", timeout=2)
        except DATABASE_ERRORS:
            connection = None
            if down is None:
                down = Outage(now - WATCH_SECONDS, now, "PostgreSQL is down")
                outages.append(down)
        else:
            down = None
        if down is not None:
            down.ended = time.time()
        await asyncio.sleep(WATCH_SECONDS)
