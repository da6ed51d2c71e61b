"""The alert rules in a real Prometheus beside a running stack: each alarm goes off when its fault is there, and falls
silent when it is gone. Only the waiting times of the rules are shortened.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import yaml
from aiokafka import AIOKafkaProducer

from deploy.local.supervisor import PROJECT
from shared.contracts.envelope import Envelope
from shared.contracts.intake import TicketWithdrawn
from shared.contracts.topics import INTAKE
from shared.ids import new_id
from tests.e2e.test_faults import healed
from tests.support.journey import register, until
from tests.support.parts import free_port
from tests.support.stack import RunningStack, running_stack
from tests.support.tickets import complaint

RULES = PROJECT / "deploy/alerts/gongdan.rules.yaml"
EXAMPLE = PROJECT / "deploy/alerts/prometheus.yaml"
REQUIRED = "GONGDAN_REQUIRE_PROMETHEUS"
PATIENCE_SECONDS = 90.0
PORTS = 21_800
NOW = datetime(2026, 11, 22, tzinfo=UTC)
GOOD = TicketWithdrawn(ticket_no="T20261122-0000001", reason="r", actor="front_line:test").model_dump_json().encode()


@dataclass
class Prometheus:
    url: str

    def firing(self) -> set[tuple[str, str]]:
        """(alert, job) of what fires now."""
        answer = httpx.get(f"{self.url}/api/v1/alerts", trust_env=False).json()
        return {
            (alert["labels"]["alertname"], alert["labels"].get("job", ""))
            for alert in answer["data"]["alerts"]
            if alert["state"] == "firing"
        }

    async def shows(self, alert: str, job: str, *, firing: bool = True) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while ((alert, f"gongdan-{job}") in self.firing()) is not firing:
            assert time.monotonic() < deadline, f"{alert} of {job} is not {'firing' if firing else 'silent'}"
            await asyncio.sleep(0.3)


def configuration(stack: RunningStack, folder: Path) -> None:
    """The example's configuration with this stack's ports, and the rules with short waiting times."""
    rules = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for rule in rules["groups"][0]["rules"]:
        rule.pop("for", None)
    (folder / "gongdan.rules.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    settings: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"}
    for job in settings["scrape_configs"]:
        job["static_configs"][0]["targets"] = [stack.url(job["job_name"].removeprefix("gongdan-")).rpartition("/")[2]]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (folder / "ops_key").write_text(stack.facts["keys"]["ops"], encoding="utf-8")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """On the embedded broker: the alarms look at the services, which are the same."""
    with running_stack(tmp_path_factory.mktemp("stack") / "data", PORTS) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None and not os.environ.get(REQUIRED):
        pytest.skip("prometheus is not installed")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    configuration(stack, folder)
    words = ["prometheus", f"--config.file={folder / 'prometheus.yaml'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*words, f"--storage.tsdb.path={folder / 'data'}"], stdout=log, stderr=log)
        try:
            server = Prometheus(f"http://127.0.0.1:{port}")
            until(lambda: httpx.get(f"{server.url}/-/ready", trust_env=False).status_code == 200)
            yield server
        finally:
            process.terminate()
            process.wait()


@contextlib.asynccontextmanager
async def kept_down(stack: RunningStack, words: str) -> AsyncIterator[None]:
    """Kill -9 a program whenever the runner brings it back."""

    async def kill() -> None:
        while True:
            with contextlib.suppress(LookupError, ProcessLookupError):
                os.kill(stack.program_pid(words), signal.SIGKILL)
            await asyncio.sleep(0.1)

    killing = asyncio.create_task(kill())
    try:
        yield
    finally:
        killing.cancel()


@contextlib.asynccontextmanager
async def database(stack: RunningStack, service: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(stack.facts["databases"][service].replace("postgresql+asyncpg", "postgresql"))
    try:
        yield connection
    finally:
        await connection.close()


async def send(stack: RunningStack, version: int, value: bytes) -> None:
    ticket = new_id()
    envelope = Envelope(new_id(), "/gongdan/intake", TicketWithdrawn.TYPE, ticket, NOW, version)
    async with AIOKafkaProducer(bootstrap_servers=stack.bootstrap, acks="all") as producer:
        await producer.send_and_wait(INTAKE, key=str(ticket).encode(), value=value, headers=envelope.headers())


async def test_nothing_is_firing_while_all_is_well(stack: RunningStack, prometheus: Prometheus) -> None:
    healed(stack)
    await asyncio.sleep(3)
    changed = {("LogChanged", f"gongdan-{name}") for name in stack.facts["services"]}
    assert prometheus.firing() <= changed | {("CalendarMissing", "gongdan-sla")}


async def test_a_service_that_hangs(stack: RunningStack, prometheus: Prometheus) -> None:
    pid = stack.pid("review")
    os.kill(pid, signal.SIGSTOP)
    try:
        await prometheus.shows("ServiceDown", "review")
    finally:
        os.kill(pid, signal.SIGCONT)
    await prometheus.shows("ServiceDown", "review", firing=False)
    healed(stack)


async def test_a_broker_that_is_gone(stack: RunningStack, prometheus: Prometheus) -> None:
    async with kept_down(stack, "deploy.local.broker"):
        await asyncio.to_thread(register, stack, complaint())
        await prometheus.shows("BrokerUnreachable", "dispatch")
        await prometheus.shows("OutboxStuck", "intake")
    await prometheus.shows("OutboxStuck", "intake", firing=False)
    await prometheus.shows("BrokerUnreachable", "dispatch", firing=False)
    await prometheus.shows("LogChanged", "review")
    healed(stack)


async def test_a_database_that_is_gone(stack: RunningStack, prometheus: Prometheus) -> None:
    async with kept_down(stack, "pginstall18/bin/postgres"):
        await prometheus.shows("DatabaseUnreachable", "sla")
        refused = asyncio.create_task(_post_again_and_again(stack))
        await prometheus.shows("IntakeRefusing", "intake")
        refused.cancel()
    await prometheus.shows("DatabaseUnreachable", "sla", firing=False)
    healed(stack)


async def _post_again_and_again(stack: RunningStack) -> None:
    headers = {"Authorization": f"Bearer {stack.facts['keys']['front_line']}"}
    async with httpx.AsyncClient(base_url=stack.url("intake"), headers=headers, trust_env=False, timeout=30) as client:
        while True:
            await client.post("/v1/tickets", json=complaint())
            await asyncio.sleep(0.2)


async def test_records_that_nobody_can_apply(stack: RunningStack, prometheus: Prometheus) -> None:
    await send(stack, 1, b"{not json")
    await send(stack, 2, GOOD)
    for service in ("review", "dispatch", "sla"):
        await prometheus.shows("DeadLetters", service)
        await prometheus.shows("EventsParked", service)


async def test_a_sweep_that_cannot_work(stack: RunningStack, prometheus: Prometheus) -> None:
    async with database(stack, "sla") as connection:
        async with connection.transaction():
            await connection.execute("LOCK TABLE clocks IN ACCESS EXCLUSIVE MODE")
            await prometheus.shows("SweepLate", "sla")
    await prometheus.shows("SweepLate", "sla", firing=False)


async def test_a_clock_that_is_late(stack: RunningStack, prometheus: Prometheus) -> None:
    accepted = await asyncio.to_thread(register, stack, complaint())
    with stack.client("supervisor", "sla") as client:
        await asyncio.to_thread(until, lambda: client.get(f"/v1/tickets/{accepted['ticket_no']}/clocks").is_success)
    async with database(stack, "sla") as connection:
        async with database(stack, "sla") as other, connection.transaction():
            await connection.execute(
                "SELECT 1 FROM complaint_facts WHERE ticket_id = $1 FOR UPDATE", accepted["ticket_id"]
            )
            await other.execute(
                "UPDATE clocks SET warn_at = clock_timestamp(), next_at = clock_timestamp()"
                " WHERE ticket_id = $1 AND warn_at IS NOT NULL AND next_at IS NOT NULL",
                accepted["ticket_id"],
            )
            await prometheus.shows("ClocksLate", "sla")
    await prometheus.shows("ClocksLate", "sla", firing=False)


async def test_a_disk_that_is_full(stack: RunningStack, prometheus: Prometheus) -> None:
    """PostgreSQL's own error, raised by a trigger; the fault suite fills a real disk."""
    async with database(stack, "intake") as connection:
        await connection.execute(
            "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;"
            "CREATE TRIGGER no_space BEFORE INSERT ON tickets FOR EACH STATEMENT EXECUTE FUNCTION no_space()"
        )
        posting = asyncio.create_task(_post_again_and_again(stack))
        await prometheus.shows("DiskFull", "intake")
        posting.cancel()
        await connection.execute("DROP TRIGGER no_space ON tickets; DROP FUNCTION no_space()")


async def test_a_calendar_that_ends(stack: RunningStack, prometheus: Prometheus) -> None:
    async with database(stack, "sla") as connection:
        today = "(now() AT TIME ZONE 'Asia/Shanghai')::date"
        through = await connection.fetchval(f"SELECT max(day) - {today} FROM calendar_days")
    gauges = metrics_of(stack, "sla")
    if through < 60:
        await prometheus.shows("CalendarMissing", "sla")
    assert int(gauges["gongdan_calendar_days_left"]) == through


async def test_a_consumer_that_stopped(stack: RunningStack, prometheus: Prometheus) -> None:
    """The last one: what was sent here stays behind as dead letters."""
    for _ in range(60):
        await send(stack, 1, b"{not json")
    await prometheus.shows("ConsumerStopped", "review")
    for service in ("review", "dispatch", "sla"):
        with stack.client("ops", service) as client:
            assert client.post("/v1/ops/resume", json={"topic": "*", "reason": "a test"}).status_code == 200
    await prometheus.shows("ConsumerStopped", "review", firing=False)


def metrics_of(stack: RunningStack, service: str) -> dict[str, float]:
    """The metrics without labels of a service."""
    with stack.client("ops", service) as client:
        lines = client.get("/metrics").text.splitlines()
    return {line.split()[0]: float(line.split()[1]) for line in lines if line[0] != "#" and "{" not in line}
