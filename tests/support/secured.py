"""Real Apache Kafka with TLS, users and rights, and dispatch as one of its users."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from pydantic import SecretStr

from deploy.kafka import access
from deploy.kafka.certificates import AUTHORITY
from deploy.local import kafka, topics
from deploy.local.supervisor import PROJECT, Program, Supervisor
from services.dispatch.app import build
from services.dispatch.settings import Settings
from shared.contracts.envelope import Envelope
from shared.contracts.review import ReviewApproved
from shared.contracts.signature import SIGNATURE, branch_key, signature
from shared.contracts.topics import BRANCH_REPLIES, REVIEW, all_topics
from shared.ids import new_id
from shared.messaging.broker import BrokerAddress
from shared.service import Service
from tests.support.parts import beside, free_port
from tests.support.sites import BASIS, ticket_number
from tests.support.snapshots import snapshot

# 1 and 10: what would be one prefix must be two names.
BRANCHES = ("jinan", "qingdao", "1", "10")
MASTER = bytes(range(32))
C = TypeVar("C", AIOKafkaConsumer, AIOKafkaProducer)
ADMIN_PASSWORD = "for-tests-only"


@dataclass
class Secured:
    """The broker; `passwords` by principal."""

    admin: BrokerAddress
    passwords: dict[str, str]
    supervisor: Supervisor
    program: Program

    async def restart(self) -> None:
        """Every connection ends; whoever comes back must name itself anew."""
        await self.supervisor.stop(("kafka",))
        await self.supervisor.start(self.program)

    def address(self, principal: str) -> BrokerAddress:
        return replace(self.admin, username=principal, password=self.passwords[principal])

    def branch(self, branch: str) -> BrokerAddress:
        return self.address(access.branch_principal(branch))


@asynccontextmanager
async def running_secured(folder: Path) -> AsyncIterator[Secured]:
    """Start it with users and rights of `BRANCHES`; the topics are made by the principal whose work that is."""
    supervisor, port = Supervisor(folder, lambda line: None), free_port()
    program = await asyncio.to_thread(kafka.prepare, folder / "kafka", port, PROJECT / ".cache", ADMIN_PASSWORD)
    await supervisor.start(program)
    authority = folder / "kafka" / "tls" / AUTHORITY
    admin = BrokerAddress(f"127.0.0.1:{port}", "SASL_SSL", access.ADMIN, ADMIN_PASSWORD, ca_file=authority)
    broker = Secured(admin, access.with_missing({}, BRANCHES), supervisor, program)
    try:
        await access.apply(admin, BRANCHES, broker.passwords)
        maker = broker.address(access.TOPICS)
        await topics.create_missing(maker, all_topics(BRANCHES), replication=1)
        await topics.ensure_incarnation(maker)
        yield broker
    finally:
        await supervisor.stop()


def dispatch_settings(url: str, broker: BrokerAddress, folder: Path, **more: Any) -> Settings:
    """As the principal of this address; signatures are asked for."""
    (folder / "keys.json").write_text("[]", encoding="utf-8")
    values: dict[str, Any] = {
        "database_url": SecretStr(url),
        "kafka_bootstrap_servers": broker.bootstrap_servers,
        "kafka_security_protocol": broker.security_protocol,
        "kafka_username": broker.username,
        "kafka_password": SecretStr(broker.password or ""),
        "kafka_ca_file": broker.ca_file,
        "keys_file": folder / "keys.json",
        "reply_key": SecretStr(base64.b64encode(MASTER).decode()),
    }
    return Settings(**(values | more))


@asynccontextmanager
async def running_dispatch(settings: Settings) -> AsyncIterator[Service]:
    """Its relay, consumer and log watch, as `Service.run` starts them."""
    service = build(settings)
    service.compose(("consumer", "relay"))
    async with service.database.transaction() as transaction:
        service.clock.sync(await transaction.now())
    await service.relay.keep_partitions()
    assert service.consumer is not None
    try:
        async with beside((service.watch.run, service.relay.run, service.consumer.run)):
            yield service
    finally:
        for closing in (service.leases, *service._databases):
            await closing.close()


async def broker_health(service: Service) -> str:
    transport = httpx.ASGITransport(service.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        checks: dict[str, str] = (await client.get("/health/ready")).json()["checks"]
    return checks["broker"]


@asynccontextmanager
async def started(client: C) -> AsyncIterator[C]:
    """A client of aiokafka's, stopped also when its start fails."""
    try:
        await client.start()
        yield client
    finally:
        await client.stop()


async def send(broker: BrokerAddress, topic: str, **record: Any) -> None:
    """One record, as this principal. Raises what the broker says against it."""
    async with started(AIOKafkaProducer(**broker.options(), acks="all", request_timeout_ms=5_000)) as producer:
        await producer.send_and_wait(topic, **record)


async def approve(broker: BrokerAddress) -> UUID:
    """Have review approve a ticket, which the rules send to Jinan; returns the ticket's id."""
    ticket = new_id()
    data = ReviewApproved(
        ticket=snapshot(ticket_no=ticket_number()), round=1, automatic=True, basis=BASIS, actor="rules"
    )
    envelope = Envelope(new_id(), "/gongdan/review", data.TYPE, ticket, datetime.now(UTC), 1)
    value = data.model_dump_json().encode()
    await send(broker, REVIEW, key=str(ticket).encode(), value=value, headers=envelope.headers())
    return ticket


def command(ticket: UUID, key: bytes | None = None, branch: str = "jinan", source: str = "jinan") -> dict[str, Any]:
    """`order.accept`, signed if there is a key. `source` is who it says it is from, `branch` is what its data says."""
    envelope = Envelope(new_id(), f"/gongdan/branch/{source}", "order.accept", ticket, datetime.now(UTC))
    headers, value = envelope.headers(), json.dumps({"branch": branch, "actor": "desk"}).encode()
    if key is not None:
        headers.append((SIGNATURE, signature(key, dict(headers), value)))
    return {"topic": BRANCH_REPLIES, "key": str(ticket).encode(), "value": value, "headers": headers}


def key_of(branch: str) -> bytes:
    return branch_key(MASTER, branch)
