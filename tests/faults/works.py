"""What the failpoint tests give a service to do, one piece at a time, and what must be true of it afterwards."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from shared.contracts.envelope import Envelope
from shared.contracts.intake import TicketRegistered
from shared.contracts.topics import INTAKE, dead_letter_topic
from shared.http.keys import Role, generate_key, save_records
from shared.ids import new_id
from tests.support.apps import random_key
from tests.support.parts import Broker, Databases
from tests.support.snapshots import snapshot
from tests.support.tickets import complaint

RETRY_SECONDS = 0.2
READ_SECONDS = 20.0


@dataclass
class Work:
    """One service on a database of its own. `give` hands one piece over, whether the service runs or not."""

    service: str
    database: asyncpg.Pool
    bootstrap: str
    environment: dict[str, str]
    key: str
    port: int
    producer: AIOKafkaProducer
    given: list[UUID] = field(default_factory=list)
    bad: list[bytes] = field(default_factory=list)
    callers: list[asyncio.Task[dict[str, Any]]] = field(default_factory=list)

    async def give(self) -> None:
        raise NotImplementedError

    async def settled(self) -> bool:
        """Everything given has its effect, so has all else that is in the log, and everything is published."""
        done = all(caller.done() for caller in self.callers) and await self.effects() == len(self.given)
        done = done and await self._has_read_everything()
        return done and await self.value("SELECT count(*) FROM outbox WHERE published_at IS NULL") == 0

    async def _has_read_everything(self) -> bool:
        """The log also holds what other tests gave, and the service writes about that, too."""
        stored = await self.database.fetch("SELECT topic, partition, next_offset FROM consumer_offsets")
        places = {TopicPartition(row["topic"], row["partition"]): row["next_offset"] for row in stored}
        async with AIOKafkaConsumer(bootstrap_servers=self.bootstrap) as reader:
            ends = await reader.end_offsets(list(places))
        return all(places[each] >= end for each, end in ends.items())

    async def effects(self) -> int:
        raise NotImplementedError

    async def check(self) -> None:
        """Nothing is missing, nothing is there twice, and each subject's events stand in the log in their order."""
        for caller in self.callers:
            await caller
        events = await self.database.fetch("SELECT * FROM outbox WHERE version IS NOT NULL ORDER BY id")
        assert events
        lines: dict[tuple[str, UUID], list[int]] = defaultdict(list)
        for event in events:
            lines[event["topic"], event["subject"]].append(event["version"])
        for line in lines.values():
            assert line == list(range(1, len(line) + 1))
        audited = await self.database.fetch(
            "SELECT (details::json->>'event_id')::uuid AS event_id, count(*) AS rows FROM audit_trail"
            " WHERE details::json->>'event_id' IS NOT NULL GROUP BY 1"
        )
        assert {row["event_id"] for row in audited} == {event["event_id"] for event in events}
        assert {row["rows"] for row in audited} == {1}
        for topic in {event["topic"] for event in events}:
            await self._check_topic(topic, [event for event in events if event["topic"] == topic])

    async def _check_topic(self, topic: str, events: list[asyncpg.Record]) -> None:
        wanted = {str(event["event_id"]): (event["type"], bytes(event["payload"])) for event in events}
        first_seen: dict[str, bytes] = {}
        for record in await records_of(self.bootstrap, topic):
            event_id = dict(record.headers)["ce_id"].decode()
            if event_id in wanted:
                kind, payload = wanted[event_id]
                assert self.shown(kind, record.value) == self.shown(kind, payload)
                first_seen.setdefault(event_id, record.value)
        assert set(first_seen) == set(wanted)
        for subject in {event["subject"] for event in events}:
            line = [str(event["event_id"]) for event in events if event["subject"] == subject]
            assert [event_id for event_id in first_seen if event_id in line] == line

    def shown(self, kind: str, payload: bytes) -> bytes:
        """What the log and the outbox must hold alike of an event of this type."""
        return payload

    async def value(self, query: str, *values: Any) -> Any:
        return await self.database.fetchval(query, *values)

    async def send(self, value: bytes, headers: list[tuple[str, bytes]], ticket: UUID) -> None:
        await self.producer.send_and_wait(INTAKE, key=str(ticket).encode(), value=value, headers=headers)

    async def call(self, path: str, body: dict[str, Any], key: str) -> dict[str, Any]:
        """Post until there is an answer, always with the same key."""
        headers = {"Authorization": f"Bearer {self.key}", "Idempotency-Key": key}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=5) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    answer = await client.post(path, json=body, headers=headers)
                    if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                        answer.raise_for_status()
                        content: dict[str, Any] = answer.json()
                        return content
                await asyncio.sleep(RETRY_SECONDS)


class Registered(Work):
    """Complaints over HTTP, each repeated with its key until it is answered."""

    async def give(self) -> None:
        ticket = new_id()
        self.given.append(ticket)
        self.callers.append(asyncio.create_task(self.call("/v1/tickets", complaint(), str(ticket))))

    async def effects(self) -> int:
        count: int = await self.value("SELECT count(*) FROM tickets")
        return count


class Withdrawn(Registered):
    """Complaints that are withdrawn at once: a request that claims its key before its work."""

    async def give(self) -> None:
        ticket = new_id()
        self.given.append(ticket)
        self.callers.append(asyncio.create_task(self._register_and_withdraw(str(ticket))))

    async def _register_and_withdraw(self, key: str) -> dict[str, Any]:
        accepted = await self.call("/v1/tickets", complaint(), key)
        path = f"/v1/tickets/{accepted['ticket_no']}/withdraw"
        return await self.call(path, {"reason": "客户撤诉"}, f"{key}-withdraw")

    async def effects(self) -> int:
        count: int = await self.value("SELECT count(*) FROM tickets WHERE status = 'withdrawn'")
        return count


class Reviewed(Work):
    """Registered tickets from the log, which the rules of review approve."""

    async def give(self) -> None:
        ticket = new_id()
        self.given.append(ticket)
        await self._register(ticket, datetime.now(UTC))

    async def _register(self, ticket: UUID, accepted_at: datetime) -> None:
        number = f"T20261122-{ticket.int % 10**7:07d}"
        event = TicketRegistered(ticket=snapshot(ticket_no=number, accepted_at=accepted_at), actor="front_line:test")
        envelope = Envelope(new_id(), "/gongdan/intake", event.TYPE, ticket, accepted_at, 1)
        await self.send(event.model_dump_json().encode(), envelope.headers(), ticket)

    async def effects(self) -> int:
        count: int = await self.value(
            "SELECT count(*) FROM reviews WHERE status = 'approved' AND ticket_id = ANY($1)", self.given
        )
        return count


class Refused(Reviewed):
    """Records that nobody can apply, each with a good one behind it."""

    async def give(self) -> None:
        bad = new_id()
        envelope = Envelope(new_id(), "/gongdan/intake", TicketRegistered.TYPE, bad, datetime.now(UTC), 1)
        await self.send(b"{not json", envelope.headers(), bad)
        self.bad.append(str(bad).encode())
        await super().give()

    async def effects(self) -> int:
        letters: int = await self.value("SELECT count(*) FROM dead_letters WHERE record_key = ANY($1)", self.bad)
        return letters if await super().effects() == len(self.given) else -1

    async def check(self) -> None:
        await super().check()
        copies = [dict(record.headers) for record in await records_of(self.bootstrap, dead_letter_topic(INTAKE))]
        rows = await self.database.fetch("SELECT record_offset, partition FROM dead_letters")
        for row in rows:
            place = (str(row["partition"]).encode(), str(row["record_offset"]).encode())
            assert place in {(copy["dead_partition"], copy["dead_offset"]) for copy in copies}


class Swept(Reviewed):
    """Tickets registered a month ago, so that their clocks are due as soon as they run."""

    async def give(self) -> None:
        ticket = new_id()
        self.given.append(ticket)
        await self._register(ticket, datetime.now(UTC) - timedelta(days=30))

    async def effects(self) -> int:
        if await self.value("SELECT count(*) FROM clocks WHERE next_at <= clock_timestamp()"):
            return -1
        count: int = await self.value(
            "SELECT count(DISTINCT ticket_id) FROM clocks WHERE breached_at IS NOT NULL AND ticket_id = ANY($1)",
            self.given,
        )
        return count

    async def check(self) -> None:
        await super().check()
        fired = await self.database.fetch(
            "SELECT subject, convert_from(payload, 'UTF8')::json->'clock'->>'kind' AS kind,"
            " (convert_from(payload, 'UTF8')::json->'clock'->>'cycle')::int AS cycle"
            " FROM outbox WHERE type = 'clock.breached' ORDER BY 1, 2, 3"
        )
        breached = await self.database.fetch(
            "SELECT ticket_id, kind, cycle FROM clocks WHERE breached_at IS NOT NULL ORDER BY 1, 2, 3"
        )
        assert [tuple(row) for row in fired] == [tuple(row) for row in breached]


async def records_of(bootstrap: str, topic: str) -> list[Any]:
    """All records of a topic, partition by partition."""
    reader = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=50)
    await reader.start()
    try:
        await reader._client.force_metadata_update()
        partitions = [TopicPartition(topic, number) for number in reader.partitions_for_topic(topic) or ()]
        reader.assign(partitions)
        ends = await reader.end_offsets(partitions)
        records: list[Any] = []
        async with asyncio.timeout(READ_SECONDS):
            for partition, end in ends.items():
                while await reader.position(partition) < end:
                    records += (await reader.getmany(partition, timeout_ms=200)).get(partition, [])
        return records
    finally:
        await reader.stop()


Works = Callable[[Databases, Broker, Path, int], AbstractAsyncContextManager[Work]]


def works(service: str, kind: type[Work], role: Role) -> Works:
    @asynccontextmanager
    async def on(databases: Databases, broker: Broker, folder: Path, port: int) -> AsyncIterator[Work]:
        key, record = generate_key(role, "test")
        save_records(folder / "keys.json", [record])
        url = await databases.fresh(service)
        values = {
            "DATABASE_URL": url,
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap,
            "KEYS_FILE": str(folder / "keys.json"),
            "HTTP_PORT": str(port),
        }
        if service == "intake":
            values |= {name: random_key().get_secret_value() for name in ("DATA_KEY", "INDEX_KEY")}
        if service == "sla":
            values["CATCH_UP_SECONDS"] = "0"
        environment = {f"{service.upper()}_{name}": value for name, value in values.items()}
        pool = await asyncpg.create_pool(url.replace("postgresql+asyncpg", "postgresql"), min_size=1, max_size=2)
        producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")
        await producer.start()
        work = kind(service, pool, broker.bootstrap, environment, key, port, producer)
        try:
            yield work
        finally:
            for caller in work.callers:
                caller.cancel()
            await producer.stop()
            await pool.close()

    return on


REGISTERED = works("intake", Registered, Role.front_line)
WITHDRAWN = works("intake", Withdrawn, Role.front_line)
REVIEWED = works("review", Reviewed, Role.reviewer)
REFUSED = works("review", Refused, Role.reviewer)
SWEPT = works("sla", Swept, Role.supervisor)
