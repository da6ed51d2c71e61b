"""A day in a small world, played to its end: the four services on real parts, at rest, for an audit to look at."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer

from deploy.audit.__main__ import Options, audit
from deploy.audit.databases import read_only
from deploy.audit.evidence import Scope
from deploy.audit.findings import Findings
from deploy.audit.quiet import wait_for_quiet
from deploy.audit.topics import open_log
from shared.contracts.topics import INTAKE
from shared.ids import new_id
from tests.support.parts import Broker, Databases
from tests.support.tickets import complaint
from tests.support.world import World, running_world

PATIENCE_SECONDS = 60.0


@dataclasses.dataclass
class Played:
    """A world that has come to rest, and the tickets of which the tests speak."""

    world: World
    databases: Databases
    closed: str
    withdrawn: str
    late: str

    async def rest(self) -> None:
        """Wait until the running world has come to rest."""
        scope = Scope()
        async with open_log(self.world.options.broker) as log:
            await wait_for_quiet(scope, log, self.world.databases, PATIENCE_SECONDS)
        assert scope.stuck == []

    async def damaged(self, service: str, *statements: str, **options: Any) -> dict[int, Findings]:
        """What an audit finds after these statements; they act on a copy of the service's database."""
        url = await self.databases.copy(service, self.world.databases[service])
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            await connection.execute("SET session_replication_role = replica")
            for statement in statements:
                changed = await connection.execute(
                    statement.format(closed=self.closed, withdrawn=self.withdrawn, late=self.late, new=new_id())
                )
                assert not changed.endswith(" 0"), f"{statement} changed nothing"
        finally:
            await connection.close()
        changed_world = {**self.world.databases, service: url}
        results = await found(dataclasses.replace(self.world.options, databases=changed_world, **options))
        await self.databases.drop(url)
        return results


async def found(options: Options) -> dict[int, Findings]:
    evidence, results = await audit(options)
    assert evidence.scope.quiet, evidence.scope.unrest
    evidence.close()
    return {invariant.number: findings for invariant, findings in results}


def broken(results: dict[int, Findings]) -> dict[int, list[str]]:
    return {number: findings.shown for number, findings in results.items() if findings.breaches}


async def until(world: World, service: str, query: str, *values: Any) -> Any:
    """The first value of the query, as soon as there is one."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_SECONDS
    async with read_only(world.databases[service]) as connection:
        while (value := await connection.fetchval(query, *values)) is None:
            assert loop.time() < deadline, f"{service}: never {query}"
            await asyncio.sleep(0.05)
        return value


async def with_branch(world: World, ticket_no: str, branch: str) -> None:
    query = "SELECT 1 FROM work_orders WHERE ticket_no = $1 AND branch = $2 AND status = 'dispatched'"
    await until(world, "dispatch", query, ticket_no, branch)


REPLY = {
    "process": "已上门检测并调整天线",
    "content": "信号已恢复正常",
    "satisfaction": "not_called",
    "replier": "王工",
}


async def play(world: World) -> dict[str, str]:
    """Tickets that end in each way, one that is still with a branch and late, and a poisoned record."""
    bodies = [complaint() for _ in range(6)]
    tickets = [
        await world.post("intake", "front_line", "/v1/tickets", body, key=f"register-{n}")
        for n, body in enumerate(bodies)
    ]
    closed, withdrawn, late, moved, returned, answered = tickets
    for ticket in tickets:
        await with_branch(world, ticket["ticket_no"], "jinan")
    orders = "/v1/orders/{ticket_no}/".format_map
    await world.post("dispatch", "jinan", orders(closed) + "accept", key="accept-1")
    answer = REPLY | {"replied_at": datetime.now(UTC).isoformat()}
    await world.post("dispatch", "jinan", orders(closed) + "reply", answer, key="reply-1")
    await world.post("dispatch", "callback", orders(closed) + "callback", {"outcome": "satisfied"})
    await world.post("intake", "front_line", f"/v1/tickets/{withdrawn['ticket_no']}/withdraw", {"reason": "算了"})
    await world.post("intake", "front_line", f"/v1/tickets/{answered['ticket_no']}/answer", {"answer": "已当场解决"})
    await world.post("dispatch", "jinan", orders(moved) + "transfer", {"to_branch": "qingdao", "reason": "在青岛"})
    await world.post("dispatch", "jinan", orders(returned) + "return", {"reason_code": "RT_OTHER", "note": "重派"})
    await until(world, "review", "SELECT 1 FROM reviews WHERE ticket_no = $1 AND round = 2", returned["ticket_no"])
    await world.post("review", "reviewer", f"/v1/reviews/{returned['ticket_no']}/approve", {"branch": "jinan"})
    await make_late(world, late["ticket_id"])
    await erase(world, bodies[1]["customer"]["phone"], withdrawn["ticket_id"])
    await poison(world)
    return {"closed": closed["ticket_id"], "withdrawn": withdrawn["ticket_id"], "late": late["ticket_id"]}


async def erase(world: World, phone: str, ticket_id: str) -> None:
    """The customer of the ticket that was withdrawn is forgotten, in all four services."""
    body = {"phone": phone, "reason": "本人要求"}
    await world.post("intake", "supervisor", "/v1/customers:erase", body, key="erase-1")
    for service in world.databases:
        query = "SELECT 1 FROM erased_subjects WHERE subject = $1::text::uuid AND scrubbed_at IS NOT NULL"
        await until(world, service, query, ticket_id)


async def make_late(world: World, ticket_id: str) -> None:
    """The deadline of its first reply has just come; the sweep fires it."""
    connection = await asyncpg.connect(world.databases["sla"].replace("+asyncpg", ""))
    await connection.execute(
        "UPDATE clocks SET warn_at = NULL, due_at = now(), next_at = now() + interval '1 microsecond'"
        " WHERE ticket_id = $1::text::uuid AND kind = 'first_reply'",
        ticket_id,
    )
    await connection.close()
    query = "SELECT 1 FROM clocks WHERE ticket_id = $1::text::uuid AND state = 'breached'"
    await until(world, "sla", query, ticket_id)


async def send(world: World, topic: str, value: bytes, headers: list[tuple[str, bytes]], key: str = "") -> int:
    """Put a record on a topic, as no service would; its offset."""
    producer = AIOKafkaProducer(bootstrap_servers=world.bootstrap, acks="all")
    await producer.start()
    try:
        sent = await producer.send_and_wait(topic, key=key.encode() or None, value=value, headers=headers, partition=0)
        return int(sent.offset)
    finally:
        await producer.stop()


async def poison(world: World) -> None:
    await send(world, INTAKE, b"{", [("ce_id", b"no event")])
    for service in ("review", "dispatch", "sla"):
        await until(world, service, "SELECT 1 FROM dead_letters")


@pytest_asyncio.fixture(scope="module", name="played")
async def played_to_the_end(
    databases: Databases, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Played]:
    async with running_world(databases, broker, tmp_path_factory.mktemp("world")) as world:
        async with world.running():
            tickets = await play(world)
            played = Played(world, databases, **tickets)
            await played.rest()
        await world.disconnect()
        yield played
