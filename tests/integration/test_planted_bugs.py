"""The audit is trusted because it finds bugs that were put in: eight known ways to lose or double an event, each in the
real piece on a real database and broker, and each time the same without the bug, where the audit finds nothing.
"""

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from sqlalchemy import text

from deploy.audit.__main__ import Options, audit
from deploy.local.state import SERVICES
from services.review.tables import plumbing
from shared.contracts.envelope import Envelope
from shared.contracts.review import ReviewReturned
from shared.contracts.ticket import Basis
from shared.database.engine import Database
from shared.http.keys import Role, generate_key, save_records
from shared.ids import new_id
from shared.messaging.relay import Relay
from tests.architecture.services import PROJECT
from tests.faults.planted import PLANTS
from tests.support.apps import random_key
from tests.support.messaging import Bench
from tests.support.parts import Broker, Databases, free_port, running_broker
from tests.support.tickets import complaint

WRITERS = 16
WRITING_SECONDS = 6.0
TICKETS = 40
PATIENCE_SECONDS = 60.0
QUIET_SECONDS = 6.0
BATCH_SECONDS = 8.0
ESCALATED = "SELECT count(DISTINCT subject) FROM outbox WHERE type = 'order.escalated'"
UNPUBLISHED = "SELECT count(*) FROM outbox WHERE published_at IS NULL"
TIME_SCALE = 3600


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    """A log of its own for each test: the audit reads all of it."""
    async with running_broker("embedded", tmp_path) as running:
        yield running


@dataclass
class House:
    """Four databases and a broker, and processes of the services on them, with or without a bug."""

    urls: dict[str, str]
    broker: Broker
    ports: dict[str, int]
    keys: dict[Role, str]
    environment: dict[str, str]
    running: ExitStack
    tickets: list[dict[str, Any]] = field(default_factory=list)

    def start(self, service: str, *sabotage: str, roles: str = "api,consumer,relay,jobs") -> subprocess.Popen[bytes]:
        prefix = service.upper()
        port = free_port()
        self.ports[service] = port
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.sabotage", *sabotage, f"services.{service}", "--roles", roles],
            cwd=PROJECT,
            env={
                **os.environ,
                **{f"{prefix}_{name}": value for name, value in self.environment.items()},
                f"{prefix}_DATABASE_URL": self.urls[service],
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
        database = Database(self.urls[service], plumbing.outbox, pool_size=1)
        try:
            return await database.read(lambda connection: _scalar(connection, sql))
        finally:
            await database.close()

    async def until(self, service: str, sql: str, expected: Any) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while (found := await self.value(service, sql)) != expected:
            assert asyncio.get_running_loop().time() < deadline, f"{found!r} is not {expected!r}: {sql}"
            await asyncio.sleep(0.2)

    async def dies(self, service: str, bug: str | None, gap: str) -> None:
        """Start it, and let it die where it reaches the gap; end it when it does not get there."""
        process = self.start(service, *planted(bug), "--kill-at", gap)
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, BATCH_SECONDS)
        process.kill()

    async def accept(self, number: str) -> None:
        """As the branch that has the order."""
        headers = {"Authorization": f"Bearer {self.keys[Role.branch]}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.ports['dispatch']}", trust_env=False) as client:
            (await client.post(f"/v1/orders/{number}/accept", headers=headers)).raise_for_status()

    async def again(self, service: str) -> None:
        """A full replay of a service's outbox."""
        database = Database(self.urls[service], plumbing.outbox, pool_size=1)
        async with database.transaction() as transaction:
            await transaction.connection.execute(text("UPDATE outbox SET published_at = NULL"))
        await database.close()

    async def publish_backwards(self) -> None:
        """The outbox of dispatch in the wrong order, in place of its relay."""
        database = Database(self.urls["dispatch"], plumbing.outbox, pool_size=1)
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

    async def found(self) -> dict[int, list[str]]:
        """The breaches by invariant. The processes end first, so that nothing moves any more."""
        await asyncio.sleep(2.0)
        self.running.close()
        options = Options(
            self.urls,
            self.broker.address,
            quiet_seconds=QUIET_SECONDS,
            time_scale=TIME_SCALE,
            time_origin=datetime.fromisoformat(self.environment["TIME_ORIGIN"]),
        )
        evidence, results = await audit(options)
        evidence.close()
        return {invariant.number: findings.shown for invariant, findings in results}


async def _scalar(connection: Any, sql: str) -> Any:
    return (await connection.execute(text(sql))).scalar_one()


@pytest_asyncio.fixture
async def house(databases: Databases, broker: Broker, tmp_path: Path) -> AsyncIterator[House]:
    made = {Role.front_line: generate_key(Role.front_line, "f"), Role.branch: generate_key(Role.branch, "b", "jinan")}
    save_records(tmp_path / "keys.json", [record for _, record in made.values()])
    keys = {role: key for role, (key, _) in made.items()}
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap,
        "KEYS_FILE": str(tmp_path / "keys.json"),
        "TIME_SCALE": str(TIME_SCALE),
        "TIME_ORIGIN": datetime.now(UTC).isoformat(),
    }
    urls = {service: await databases.fresh(service) for service in SERVICES}
    with ExitStack() as running:
        yield House(urls, broker, {}, keys, environment, running)


def planted(bug: str | None) -> tuple[str, ...]:
    return ("--plant", bug) if bug else ()


def about(found: dict[int, list[str]], service: str, *invariants: int) -> list[str]:
    """What these invariants say of a service. The others do not run here, so of them much is missing."""
    others = tuple(f"{other} " for other in SERVICES if other != service)
    return [line for number in invariants for line in found[number] if service in line and not line.startswith(others)]


# ---- the relay -------------------------------------------------------------------------------------------------------


@contextmanager
def planted_here(bug: str | None) -> Iterator[None]:
    """Put a bug of the relay into this process, and take it out again."""
    kept = Relay._pass
    if bug is not None:
        PLANTS[bug]()
    try:
        yield
    finally:
        Relay._pass = kept  # type: ignore[method-assign]


async def write_at_once(database: Database) -> None:
    """Many writers on a few tickets. Each has its transaction's number before it gets its ticket's lock, and takes a
    while to commit, as long work before and after does."""
    end = asyncio.get_running_loop().time() + WRITING_SECONDS
    tickets = [new_id() for _ in range(TICKETS)]
    versions = dict.fromkeys(tickets, 0)
    basis = Basis(pack="p", version="1")
    async with database.transaction() as transaction:
        await transaction.connection.execute(
            text(
                "CREATE FUNCTION take_a_while() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN PERFORM pg_sleep(random() * 0.05); RETURN NULL; END'"
            )
        )
        await transaction.connection.execute(
            text("CREATE TRIGGER slow AFTER INSERT ON audit_trail FOR EACH STATEMENT EXECUTE FUNCTION take_a_while()")
        )

    async def write() -> None:
        while asyncio.get_running_loop().time() < end:
            ticket: UUID = random.choice(tickets)
            async with database.transaction() as transaction:
                await transaction.connection.execute(text("SELECT pg_current_xact_id(), pg_sleep(random() * 0.02)"))
                await transaction.connection.execute(
                    text("SELECT pg_advisory_xact_lock(hashtextextended(:id, 1))"), {"id": str(ticket)}
                )
                versions[ticket] += 1
                event = ReviewReturned(
                    ticket_no=f"T20261122-{ticket.int % 10**7:07d}",
                    round=versions[ticket],
                    reason_code="r",
                    automatic=True,
                    basis=basis,
                    actor="rules",
                )
                now = datetime.now(UTC)
                transaction.publish(event, subject=ticket, version=versions[ticket], time=now)

    await asyncio.gather(*(write() for _ in range(WRITERS)))


@pytest.mark.parametrize(
    ("bug", "invariant", "words"),
    [
        (None, 0, ""),
        ("relay_by_last_id", 4, "is not published"),
        ("relay_up_to_open", 4, "is not published"),
        ("relay_by_transaction", 5, ""),
    ],
)
async def test_a_relay_that_loses_or_reorders_is_found(
    house: House, bug: str | None, invariant: int, words: str
) -> None:
    database = Database(house.urls["review"], plumbing.outbox, pool_size=WRITERS + 2)
    bench = Bench(house.urls["review"], house.broker, database)
    with planted_here(bug):
        async with bench.running(consume=False):
            await write_at_once(database)
            await asyncio.sleep(2.0)
    await database.close()
    found = await house.found()
    if bug is None:
        assert not [line for line in found[4] if "is not published" in line]
        assert found[5] == []
    else:
        assert [line for line in found[invariant] if words in line], found


# ---- readers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bug", "gap"), [(None, "consumer.effects_written"), ("commit_before_apply", "planted.offset_stored")]
)
async def test_a_reader_that_moves_on_before_it_has_applied_is_found(house: House, bug: str | None, gap: str) -> None:
    """Each death loses a batch; the tickets are not in the first one."""
    house.start("intake")
    await house.post(3)
    await house.until("intake", UNPUBLISHED, 0)
    for _ in range(4):
        await house.dies("review", bug, gap)
    house.start("review", *planted(bug))
    await asyncio.sleep(BATCH_SECONDS)
    found = about(await house.found(), "review", 2, 3, 4, 5)
    assert bool(found) is bool(bug), found


@pytest.mark.parametrize(
    ("bug", "gap"), [(None, "consumer.committed:2"), ("offset_stored_apart", "planted.effects_stored:2")]
)
async def test_a_reader_that_moves_on_apart_from_its_effects_is_found(house: House, bug: str | None, gap: str) -> None:
    """Each death comes at the second batch, so that every batch is applied before one; some hold escalations."""
    for service in ("intake", "review", "sla"):
        house.start(service)
    await house.post(3)
    for _ in range(8):
        await house.dies("dispatch", bug, gap)
    house.start("dispatch", *planted(bug))
    await house.until("dispatch", ESCALATED, 3)
    found = about(await house.found(), "dispatch", 2, 3, 4, 5)
    assert bool(found) is bool(bug), found


@pytest.mark.parametrize("bug", [None, "no_version_check"])
async def test_a_reader_that_applies_everything_it_sees_is_found(house: House, bug: str | None) -> None:
    """Escalations are sent again; an order must not be escalated again."""
    house.start("dispatch", *planted(bug))
    for service in ("intake", "review", "sla"):
        house.start(service)
    await house.post(3)
    await house.until("dispatch", ESCALATED, 3)
    await house.again("sla")
    await asyncio.sleep(BATCH_SECONDS)
    found = about(await house.found(), "dispatch", 2, 3, 4, 5)
    assert bool(found) is bool(bug), found


@pytest.mark.parametrize("bug", [None, "parked_ticket_skipped"])
async def test_a_reader_that_does_not_wait_for_what_is_missing_is_found(house: House, bug: str | None) -> None:
    """What dispatch says reaches intake backwards."""
    house.start("intake", *planted(bug))
    house.start("review")
    house.start("dispatch", roles="api,consumer")
    await house.post(1)
    await house.until("dispatch", "SELECT count(*) FROM work_orders", 1)
    await house.accept(house.tickets[0]["ticket_no"])
    await house.publish_backwards()
    await house.until("intake", "SELECT sum(version) FROM inbox WHERE publisher = 'dispatch'", 2)
    found = about(await house.found(), "intake", 2, 3, 4)
    assert bool(found) is bool(bug), found


# ---- the sweep -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bug", [None, "fire_without_lock"])
async def test_a_sweep_that_fires_without_a_lock_is_found(house: House, bug: str | None) -> None:
    house.start("intake")
    for _ in range(2):
        house.start("sla", *planted(bug))
    await house.post(20)
    await house.until("sla", "SELECT count(DISTINCT ticket_id) FROM clocks WHERE breached_at IS NOT NULL", 20)
    found = await house.found()
    assert bool(about(found, "sla", 3) + found[7]) is bool(bug), found
