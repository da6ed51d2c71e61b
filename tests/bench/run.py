"""`make bench`: what the platform does on this machine, as ratios against a floor measured in the same run.

    python -m tests.bench.run [--broker embedded|kafka] [--rounds 3] [--seconds 5] [--output docs/performance.json]

Rounds of floor and platform are interleaved, medians are shown, and beside every rate stand the CPU milliseconds a
ticket of each server process, which hold still when the machine does not. Nothing here is asserted.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.contracts.topics import SLA, branch_topic
from tests.bench.load import Result, closed_loop, paced, post
from tests.support.stack import PROJECT, RunningStack, running_stack

PORTS = 22_000
BARE_PORT = 22_900
CITIES = ("jinan", "qingdao", "zibo", "weifang", "yantai", "linyi", "jining", "dezhou")
CONNECTIONS = 32
OPEN_CLOCKS = 100_000
DUE = 1_000
DUE_PER_SECOND = 100
PATIENCE_SECONDS = 120.0
SERVICES = ("intake", "review", "dispatch", "sla")

MAKE_CLOCKS = """
INSERT INTO clocks (clock_id, ticket_id, kind, cycle, rule, state, started_at, opened_at, ladder_from, due_at, next_at,
    boundary, soft, on_breach, rung, provisional, counted_seconds, excluded_seconds, explanation)
SELECT uuidv7(), ticket_id, 'resolution', 1, 'GDM-L4', 'running', now(), now(), due, due, due,
    'at', false, 'overdue', 0, false, 0, 0, '{"zh": "", "en": ""}'
FROM (
    SELECT ticket_id, CASE WHEN number <= $1::int
        THEN $2::timestamptz + number * interval '1 second' / $3::int
        ELSE $2::timestamptz + interval '30 days' + number * interval '1 second' END AS due
    FROM made
) AS dated
"""

_numbers = itertools.count()
_salt = int(time.time()) % 1000


def body(number: int) -> bytes:
    """A realistic complaint of about 600 bytes, each of another customer."""
    city = CITIES[number % len(CITIES)]
    phone = f"1{3 + _salt % 6}{_salt % 100:02d}{number % 10_000_000:07d}"
    complaint = {
        "channel": "service_hall",
        "kind": "complaint",
        "category": "network.coverage.indoor",
        "customer": {"phone": phone, "tier": "ordinary", "brand": "easyown", "home_city": city},
        "content": "家里信号差,打电话经常断线,希望尽快处理。已经三天了,影响工作,请派人上门检查。" * 2,
        "place": {"city": city, "district": "中心区", "address": f"第{number}号楼"},
        "elements": {"location": f"第{number}号楼", "since": "三天前"},
    }
    return json.dumps(complaint, ensure_ascii=False).encode()


class Machine:
    """CPU seconds of the stack's processes, by name."""

    def __init__(self, stack: RunningStack) -> None:
        self._stack = stack

    def cpu(self) -> dict[str, float]:
        """User and system seconds so far; PostgreSQL's many processes counted as one."""
        spent: dict[str, float] = dict.fromkeys((*SERVICES, "postgres", "broker"), 0.0)
        for process in psutil.Process(self._stack.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                line = " ".join(process.cmdline())
                for name in SERVICES:
                    if f"services.{name}" in line:
                        spent[name] += sum(process.cpu_times()[:2])
                if "postgres" in line:
                    spent["postgres"] += sum(process.cpu_times()[:2])
                elif "deploy.local.broker" in line or "kafka.Kafka" in line:
                    spent["broker"] += sum(process.cpu_times()[:2])
        return spent

    @contextlib.contextmanager
    def held(self, names: tuple[str, ...]) -> Iterator[None]:
        """Freeze some services, so that what is measured has the machine for itself."""
        pids = [self._stack.pid(name) for name in names]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


def requests(stack: RunningStack) -> Any:
    """A maker of prepared posts with authorisation and idempotency key."""
    url, key = f"{stack.url('intake')}/v1/tickets", stack.facts["keys"]["front_line"]

    def make(_: int) -> bytes:
        number = next(_numbers)
        return post(url, body(number), {"Authorization": f"Bearer {key}", "Idempotency-Key": f"bench-{_salt}-{number}"})

    return make


def shown_cpu(before: dict[str, float], after: dict[str, float], tickets: int) -> dict[str, float]:
    """CPU milliseconds a ticket."""
    return {name: round((after[name] - before[name]) * 1000 / max(tickets, 1), 3) for name in after}


class Branches:
    """Reads every branch's topic and notes when each ticket's order arrived (monotonic seconds)."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self.arrived: dict[str, float] = {}

    async def __aenter__(self) -> "Branches":
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            auto_offset_reset="latest",
            enable_auto_commit=False,
            fetch_max_wait_ms=20,
        )
        await self._consumer.start()
        partitions = [TopicPartition(branch_topic(city), 0) for city in CITIES]
        self._consumer.assign(partitions)
        await self._consumer.seek_to_end(*partitions)
        for partition in partitions:
            await self._consumer.position(partition)
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._consumer.stop()

    async def _read(self) -> None:
        while True:
            for records in (await self._consumer.getmany(timeout_ms=100)).values():
                now = time.perf_counter()
                for record in records:
                    self.arrived.setdefault(record.key.decode(), now)

    async def until(self, wanted: set[str]) -> None:
        deadline = time.perf_counter() + PATIENCE_SECONDS
        while not wanted <= self.arrived.keys():
            if time.perf_counter() > deadline:
                missing = len(wanted - self.arrived.keys())
                raise TimeoutError(f"{missing} of {len(wanted)} orders did not arrive in {PATIENCE_SECONDS:.0f} s")
            await asyncio.sleep(0.02)


async def accept(stack: RunningStack, machine: Machine, rounds: int, seconds: float) -> dict[str, Any]:
    """Tickets a second into intake beside a bare endpoint, with the rest of the platform held and with it running."""
    bare = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.bench.bare", str(BARE_PORT), cwd=PROJECT)
    bare_url = f"http://127.0.0.1:{BARE_PORT}/v1/tickets"
    make = requests(stack)
    figures: dict[str, list[Result]] = {"bare": [], "alone": [], "together": []}
    cpu: list[dict[str, float]] = []
    try:
        await asyncio.sleep(2)
        await closed_loop(stack.url("intake"), make, CONNECTIONS, 1.0)
        for _ in range(rounds):
            figures["bare"].append(
                await closed_loop(bare_url, lambda number: post(bare_url, body(number), {}), CONNECTIONS, seconds)
            )
            before = machine.cpu()
            with machine.held(("review", "dispatch", "sla")):
                figures["alone"].append(await closed_loop(stack.url("intake"), make, CONNECTIONS, seconds))
                cpu.append(shown_cpu(before, machine.cpu(), len(figures["alone"][-1].latencies)))
            await drained(stack)
            figures["together"].append(await closed_loop(stack.url("intake"), make, CONNECTIONS, seconds))
            await drained(stack)
    finally:
        bare.terminate()
        await bare.wait()

    def rate(name: str) -> float:
        return statistics.median(result.rate for result in figures[name])

    return {
        "bare_per_second": round(rate("bare")),
        "intake_alone_per_second": round(rate("alone")),
        "intake_with_pipeline_per_second": round(rate("together")),
        "ratio_alone": round(rate("alone") / rate("bare"), 3),
        "ratio_with_pipeline": round(rate("together") / rate("bare"), 3),
        "p99_ms": {
            name: round(statistics.median(result.percentile(0.99) for result in results) * 1000, 1)
            for name, results in figures.items()
        },
        "failures": sum(result.failures for results in figures.values() for result in results),
        "intake_cpu_ms_per_ticket": statistics.median(each["intake"] for each in cpu),
        "postgres_cpu_ms_per_ticket": statistics.median(each["postgres"] for each in cpu),
    }


async def drained(stack: RunningStack) -> None:
    """Wait until no service has an event left to publish and every ticket has its order or waits for a person."""
    deadline = time.monotonic() + PATIENCE_SECONDS * 2
    quiet = 0
    while quiet < 3:
        waiting = 0
        for name in SERVICES:
            connection = await asyncpg.connect(stack.facts["databases"][name].replace("+asyncpg", ""))
            waiting += await connection.fetchval("SELECT count(*) FROM outbox WHERE published_at IS NULL")
            if name == "intake":
                waiting += await connection.fetchval(
                    "SELECT count(*) FROM tickets WHERE status IN ('registered', 'approved')"
                )
            await connection.close()
        quiet = quiet + 1 if waiting == 0 else 0
        if time.monotonic() > deadline:
            raise TimeoutError(f"{waiting} tickets and events were still on their way")
        await asyncio.sleep(0.3)


async def throughput(stack: RunningStack, machine: Machine, tickets: int) -> dict[str, Any]:
    """All four services: so many tickets as fast as they go, until the last order is on its branch's topic."""
    make = requests(stack)
    async with Branches(stack.bootstrap) as branches:
        before, began = machine.cpu(), time.perf_counter()
        result = Result()
        while len(result.answers) < tickets:
            part = await closed_loop(stack.url("intake"), make, CONNECTIONS, 1.0)
            result.answers += part.answers
            result.failures += part.failures
        posted = time.perf_counter() - began
        await branches.until({json.loads(answer)["ticket_id"] for answer in result.answers})
        elapsed = time.perf_counter() - began
    count = len(result.answers)
    await drained(stack)
    cpu = shown_cpu(before, machine.cpu(), count)
    return {
        "tickets": count,
        "posting_seconds": round(posted, 1),
        "end_to_end_seconds": round(elapsed, 1),
        "end_to_end_per_second": round(count / elapsed),
        "cpu_ms_per_ticket": cpu,
        "cpu_ms_per_ticket_all": round(sum(cpu.values()), 2),
    }


async def steady(stack: RunningStack, rate: float, seconds: float) -> dict[str, Any]:
    """From sending the POST to having read the record on the branch's topic, at a steady rate."""
    make = requests(stack)
    sent: dict[int, float] = {}

    def noted(number: int) -> bytes:
        sent[number] = time.perf_counter()
        return bytes(make(number))

    async with Branches(stack.bootstrap) as branches:
        result = await paced(stack.url("intake"), noted, rate, seconds)
        ids = [json.loads(answer)["ticket_id"] for answer in result.answers]
        await branches.until(set(ids))
    # Answers come back in nearly the order of sending; the number in the ticket's text is not needed to pair them.
    starts = sorted(sent.values())
    waits = sorted(branches.arrived[ticket] - start for ticket, start in zip(ids, starts, strict=True))
    return {
        "rate_per_second": rate,
        "tickets": len(waits),
        "failures": result.failures,
        "accept_ms": {f"p{p}": round(result.percentile(p / 100) * 1000, 1) for p in (50, 95, 99)},
        "to_branch_topic_ms": {f"p{p}": round(waits[int(len(waits) * p / 100)] * 1000, 1) for p in (50, 95, 99)},
    }


async def deadlines(stack: RunningStack) -> dict[str, Any]:
    """Time from a deadline to its event on the topic, with 100,000 clocks open."""
    connection = await asyncpg.connect(stack.facts["databases"]["sla"].replace("+asyncpg", ""))
    template = await connection.fetchval("SELECT ticket_id FROM complaint_facts LIMIT 1")
    first_due = datetime.now(UTC) + timedelta(seconds=20)
    async with connection.transaction():
        await connection.execute(
            "CREATE TEMP TABLE made ON COMMIT DROP AS SELECT uuidv7() AS ticket_id, number"
            " FROM generate_series(1, $1::int) AS number",
            OPEN_CLOCKS,
        )
        facts = [
            row[0]
            for row in await connection.fetch(
                "SELECT column_name FROM information_schema.columns WHERE table_name = 'complaint_facts'"
                " AND column_name NOT IN ('ticket_id', 'ticket_no', 'customer_key', 'incident_id')"
            )
        ]
        columns = ", ".join(facts)
        await connection.execute(
            f"INSERT INTO complaint_facts (ticket_id, ticket_no, customer_key, {columns})"
            f" SELECT made.ticket_id, 'B-' || made.ticket_id, 'bench-' || number, {columns}"
            " FROM made, (SELECT * FROM complaint_facts WHERE ticket_id = $1) AS template",
            template,
        )
        await connection.execute(MAKE_CLOCKS, DUE, first_due, DUE_PER_SECOND)
    await connection.execute("ANALYZE clocks")
    await connection.close()
    reader = AIOKafkaConsumer(SLA, bootstrap_servers=stack.bootstrap, auto_offset_reset="latest", fetch_max_wait_ms=20)
    await reader.start()
    await reader.seek_to_end()
    late: list[float] = []
    deadline = time.monotonic() + 20 + DUE / DUE_PER_SECOND + PATIENCE_SECONDS
    while len(late) < DUE and time.monotonic() < deadline:
        for records in (await reader.getmany(timeout_ms=200)).values():
            now = datetime.now(UTC)
            for record in records:
                if dict(record.headers)["ce_type"] == b"clock.breached":
                    event = json.loads(record.value)
                    if (event["ticket_no"].startswith("T") and event["clock"]["rule"] == "GDM-L4") or "B-" in event[
                        "ticket_no"
                    ]:
                        late.append((now - datetime.fromisoformat(event["clock"]["due_at"])).total_seconds())
    await reader.stop()
    late.sort()
    return {
        "open_clocks": OPEN_CLOCKS,
        "fired": len(late),
        "due_per_second": DUE_PER_SECOND,
        "late_ms": {f"p{p}": round(late[int(len(late) * p / 100)] * 1000, 1) for p in (50, 95, 99)} if late else {},
        "late_max_ms": round(late[-1] * 1000, 1) if late else None,
        "early": sum(1 for each in late if each < 0),
    }


def memory(stack: RunningStack) -> dict[str, int]:
    """Resident megabytes of each service."""
    return {name: psutil.Process(stack.pid(name)).memory_info().rss // 2**20 for name in SERVICES}


async def measure(stack: RunningStack, rounds: int, seconds: float) -> dict[str, Any]:
    machine = Machine(stack)
    figures: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "cores": os.cpu_count()}
    figures["memory_mb_idle"] = memory(stack)
    for name, part in (
        ("steady_50", steady(stack, 50, 20)),
        ("accept", accept(stack, machine, rounds, seconds)),
        ("throughput", throughput(stack, machine, 4000)),
        ("deadlines", deadlines(stack)),
    ):
        print(f"… {name}", flush=True)
        figures[name] = await part
        print(json.dumps(figures[name], indent=2), flush=True)
    figures["memory_mb_after"] = memory(stack)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.run", description="Measure the platform.")
    parser.add_argument("--broker", choices=["embedded", "kafka"], default=os.environ.get("BROKER") or "embedded")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round of the accept part")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with running_stack(Path(folder) / "data", PORTS, broker=arguments.broker) as stack:
            figures = asyncio.run(measure(stack, arguments.rounds, arguments.seconds))
    figures["broker"] = arguments.broker
    print(json.dumps(figures, indent=2))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
