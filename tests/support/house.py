"""A small house for tests of whole processes: four databases, a log, and services on them, with a fault or without."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from sqlalchemy import text

from deploy.audit.__main__ import Options, audit
from deploy.audit.evidence import Scope
from deploy.audit.quiet import wait_for_quiet
from deploy.audit.topics import open_log
from deploy.local.state import SERVICES
from shared.contracts.envelope import Envelope
from shared.database.engine import Database
from shared.http.keys import Role, generate_key, save_records
from tests.architecture.services import PROJECT
from tests.support.apps import random_key
from tests.support.parts import Broker, Databases, free_port, running_broker
from tests.support.tickets import complaint

PATIENCE_SECONDS = 60.0
# What nobody publishes for so long, with every process ended, nobody ever will.
STUCK_SECONDS = 2.0
UNPUBLISHED = "SELECT count(*) FROM outbox WHERE published_at IS NULL"


@dataclass
class House:
    """`time_scale` is for what starts from then on."""

    urls: dict[str, str]
    broker: Broker
    keys: dict[Role, str]
    keys_file: Path
    running: ExitStack
    time_scale: float = 1.0
    time_origin: datetime = field(default_factory=lambda: datetime.now(UTC))
    ports: dict[str, int] = field(default_factory=dict)
    tickets: list[dict[str, Any]] = field(default_factory=list)

    def start(self, service: str, *sabotage: str, roles: str = "api,consumer,relay,jobs") -> subprocess.Popen[bytes]:
        """A process of a service, with what `tests.faults.sabotage` shall do to it."""
        prefix = service.upper()
        port = free_port()
        self.ports[service] = port
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.sabotage", *sabotage, f"services.{service}", "--roles", roles],
            cwd=PROJECT,
            env={
                **os.environ,
                f"{prefix}_DATABASE_URL": self.urls[service],
                f"{prefix}_KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap,
                f"{prefix}_KEYS_FILE": str(self.keys_file),
                f"{prefix}_TIME_SCALE": str(self.time_scale),
                f"{prefix}_TIME_ORIGIN": self.time_origin.isoformat(),
                f"{prefix}_HTTP_PORT": str(port),
                "INTAKE_DATA_KEY": random_key().get_secret_value(),
                "INTAKE_INDEX_KEY": random_key().get_secret_value(),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.running.callback(process.wait)
        self.running.callback(process.kill)
        return process

    async def answers(self, service: str) -> None:
        """Wait until the process of this service that was started last is there."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.ports[service]}", trust_env=False) as client:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    with suppress(httpx.TransportError):
                        (await client.get("/health/live")).raise_for_status()
                        return
                    await asyncio.sleep(0.1)

    async def post(self, count: int) -> None:
        """Give complaints to intake, as soon as it is there."""
        headers = {"Authorization": f"Bearer {self.keys[Role.front_line]}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.ports['intake']}", trust_env=False) as client:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(self.tickets) < count:
                    try:
                        answer = await client.post("/v1/tickets", json=complaint(), headers=headers)
                    except httpx.TransportError:
                        await asyncio.sleep(0.2)
                        continue
                    self.tickets.append(answer.raise_for_status().json())

    async def value(self, service: str, sql: str) -> Any:
        database = Database(self.urls[service], pool_size=1)
        try:
            return await database.read(lambda connection: _scalar(connection, sql))
        finally:
            await database.close()

    async def until(self, service: str, sql: str, expected: Any) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while (found := await self.value(service, sql)) != expected:
            assert asyncio.get_running_loop().time() < deadline, f"{found!r} is not {expected!r}: {sql}"
            await asyncio.sleep(0.2)

    async def dies(self, service: str, *sabotage: str) -> None:
        """Start it, and wait until it has killed itself."""
        process = self.start(service, *sabotage)
        assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == -signal.SIGKILL

    async def accept(self, number: str) -> None:
        """As the branch that has the order."""
        headers = {"Authorization": f"Bearer {self.keys[Role.branch]}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.ports['dispatch']}", trust_env=False) as client:
            (await client.post(f"/v1/orders/{number}/accept", headers=headers)).raise_for_status()

    async def again(self, service: str) -> None:
        """A full replay of a service's outbox, and its end."""
        database = Database(self.urls[service], pool_size=1)
        async with database.transaction() as transaction:
            await transaction.connection.execute(text("UPDATE outbox SET published_at = NULL"))
        await database.close()
        await self.until(service, UNPUBLISHED, 0)

    async def publish_backwards(self) -> None:
        """The outbox of dispatch in the wrong order, in place of its relay."""
        database = Database(self.urls["dispatch"], pool_size=1)
        async with AIOKafkaProducer(bootstrap_servers=self.broker.bootstrap, acks="all") as producer:
            async with database.transaction() as transaction:
                rows = await transaction.connection.execute(
                    text("SELECT * FROM outbox WHERE version IS NOT NULL ORDER BY id DESC")
                )
                for row in rows:
                    envelope = Envelope(row.event_id, "/gongdan/dispatch", row.type, row.subject, row.time, row.version)
                    key, headers = str(row.subject).encode(), envelope.headers()
                    await producer.send_and_wait(row.topic, key=key, value=bytes(row.payload), headers=headers)
                await transaction.connection.execute(text("UPDATE outbox SET published_at = now()"))
        await database.close()

    async def rest(self) -> None:
        """Wait until everything published is read."""
        async with open_log(self.broker.address) as log:
            await wait_for_quiet(Scope(), log, self.urls, PATIENCE_SECONDS)

    async def found(self, *, at_rest: bool = True) -> dict[int, list[str]]:
        """The breaches by invariant: when all has come to rest, or of what is left when everything ends at once."""
        if not at_rest:
            self.running.close()
        options = Options(
            self.urls,
            self.broker.address,
            quiet_seconds=PATIENCE_SECONDS if at_rest else STUCK_SECONDS,
            time_scale=self.time_scale,
            time_origin=self.time_origin,
        )
        evidence, results = await audit(options)
        evidence.close()
        assert evidence.scope.quiet or not at_rest, evidence.scope.unrest
        return {invariant.number: findings.shown for invariant, findings in results}


async def _scalar(connection: Any, sql: str) -> Any:
    return (await connection.execute(text(sql))).scalar_one()


@pytest_asyncio.fixture
async def house(databases: Databases, tmp_path: Path) -> AsyncIterator[House]:
    """The log is the test's own, for the audit reads all of it."""
    made = {Role.front_line: generate_key(Role.front_line, "f"), Role.branch: generate_key(Role.branch, "b", "jinan")}
    save_records(tmp_path / "keys.json", [record for _, record in made.values()])
    keys = {role: key for role, (key, _) in made.items()}
    urls = {service: await databases.fresh(service) for service in SERVICES}
    async with running_broker("embedded", tmp_path) as broker:
        with ExitStack() as running:
            yield House(urls, broker, keys, tmp_path / "keys.json", running)


def about(found: dict[int, list[str]], service: str, *invariants: int) -> list[str]:
    """What these invariants say of a service. The others may not all run, so of them much is missing."""
    others = tuple(f"{other} " for other in SERVICES if other != service)
    return [line for number in invariants for line in found[number] if service in line and not line.startswith(others)]
