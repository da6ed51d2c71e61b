"""The audit of a running system: silent on a true state, and it names each fault that is planted in one."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
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
from tests.support.messaging import NOW
from tests.support.parts import Broker, Databases
from tests.support.tickets import complaint
from tests.support.world import World, running_world

PATIENCE_SECONDS = 60.0
SECRET = "13912345678"
NAME = "欧阳不存在"


@dataclasses.dataclass
class Played:
    """A world that has come to rest, and the tickets of which the tests speak."""

    world: World
    databases: Databases
    closed: str
    withdrawn: str
    late: str

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
        return await found(dataclasses.replace(self.world.options, databases=changed_world, **options))


async def found(options: Options) -> dict[int, Findings]:
    evidence, results = await audit(options)
    assert evidence.scope.quiet, evidence.scope.unrest
    evidence.close()
    return {invariant.number: findings for invariant, findings in results}


def broken(results: dict[int, Findings]) -> dict[int, list[str]]:
    return {number: findings.shown for number, findings in results.items() if findings.breaches}


async def until(world: World, service: str, query: str, *values: Any) -> Any:
    """The first value of the query, as soon as there is one."""
    async with asyncio.timeout(PATIENCE_SECONDS), read_only(world.databases[service]) as connection:
        while (value := await connection.fetchval(query, *values)) is None:
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
    tickets = [
        await world.post("intake", "front_line", "/v1/tickets", complaint(), key=f"register-{n}") for n in range(6)
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
    await poison(world)
    return {"closed": closed["ticket_id"], "withdrawn": withdrawn["ticket_id"], "late": late["ticket_id"]}


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


@pytest_asyncio.fixture(scope="module")
async def played(
    databases: Databases, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Played]:
    async with running_world(databases, broker, tmp_path_factory.mktemp("world")) as world:
        async with world.running():
            tickets = await play(world)
            async with open_log(world.bootstrap) as log:
                scope = Scope()
                await wait_for_quiet(scope, log, world.databases, PATIENCE_SECONDS)
                assert scope.stuck == []
        await world.disconnect()
        yield Played(world, databases, **tickets)


async def test_a_true_state_holds_in_every_respect(played: Played) -> None:
    results = await found(played.world.options)
    assert broken(results) == {}
    assert [number for number, findings in results.items() if findings.postponed] == []
    assert all(findings.checked > 0 for findings in results.values())


# (invariant, words of the breach, service, statements): `{late}` and its like stand for the id of that ticket.
FAULTS: list[tuple[int, str, str, tuple[str, ...]]] = [
    (1, "a kept answer of a ticket that does not exist", "intake", ("DELETE FROM tickets WHERE ticket_id = '{late}'",)),
    (
        2,
        "a step outside the state graph",
        "dispatch",
        (
            "UPDATE outbox SET type = 'order.replied' WHERE subject = '{closed}' AND type = 'order.accepted'"
            " AND topic = 'gongdan.dispatch'",
        ),
    ),
    (
        2,
        "intake shows another status",
        "intake",
        ("UPDATE tickets SET status = 'accepted' WHERE ticket_id = '{late}'",),
    ),
    (
        2,
        "dispatch holds another status",
        "dispatch",
        ("UPDATE work_orders SET status = 'dispatched' WHERE ticket_id = '{withdrawn}'",),
    ),
    (
        2,
        "sla does not agree that the ticket ended",
        "sla",
        ("UPDATE complaint_facts SET ended = false WHERE ticket_id = '{closed}'",),
    ),
    (
        3,
        "versions with a hole or a double",
        "dispatch",
        ("DELETE FROM outbox WHERE subject = '{closed}' AND topic = 'gongdan.dispatch' AND version = 2",),
    ),
    (3, "the row's version is not", "review", ("UPDATE reviews SET version = 9 WHERE ticket_id = '{late}'",)),
    (
        3,
        "sla has not applied all of dispatch",
        "sla",
        ("UPDATE inbox SET version = version - 1 WHERE subject = '{closed}' AND publisher = 'dispatch'",),
    ),
    (
        4,
        "not exactly one entry in intake's timeline",
        "intake",
        ("DELETE FROM ticket_timeline WHERE ticket_id = '{late}' AND type = 'order.dispatched'",),
    ),
    (
        4,
        "an entry in intake's timeline of an event that nobody published",
        "intake",
        (
            "INSERT INTO ticket_timeline SELECT ticket_id, '{new}', at, service, type, actor, rules, details"
            " FROM ticket_timeline WHERE ticket_id = '{late}' AND type = 'order.dispatched'",
        ),
    ),
    (4, "review does not know a registered ticket", "review", ("DELETE FROM reviews WHERE ticket_id = '{late}'",)),
    (4, "approved, and not dispatched", "dispatch", ("DELETE FROM work_orders WHERE ticket_id = '{late}'",)),
    (4, "dispatch counts other rounds", "dispatch", ("UPDATE work_orders SET round = 7 WHERE ticket_id = '{late}'",)),
    (4, "dispatch stores other callbacks", "dispatch", ("DELETE FROM callbacks WHERE ticket_id = '{closed}'",)),
    (
        4,
        "sla stores other escalations",
        "sla",
        (
            "INSERT INTO escalations SELECT '{new}', ticket_id, ticket_no, clock_id, incident_id, kind, rung, status,"
            " event, raised_at, acknowledged_by, acknowledged_at, settled_at FROM escalations WHERE ticket_id = '{late}'"
            " UNION ALL SELECT '{new}', ticket_id, ticket_no, NULL, NULL, 'overdue', 1, 'open', '{{}}', now(), NULL, NULL,"
            " NULL FROM complaint_facts WHERE ticket_id = '{late}' LIMIT 1",
        ),
    ),
    (
        7,
        "fired early",
        "sla",
        ("UPDATE clocks SET due_at = now() + interval '1 hour' WHERE ticket_id = '{late}' AND kind = 'first_reply'",),
    ),
    (
        7,
        "not one breach event",
        "sla",
        (
            "INSERT INTO outbox (topic, subject, version, event_id, type, time, payload, published_at) SELECT topic,"
            " subject, version + 100, '{new}', type, time, payload, published_at FROM outbox"
            " WHERE subject = '{late}' AND type = 'clock.breached'",
        ),
    ),
    (
        7,
        "due and neither fired nor stopped",
        "sla",
        (
            "UPDATE clocks SET due_at = now() - interval '1 hour', next_at = now() - interval '1 hour'"
            " WHERE ticket_id = '{late}' AND state = 'running'",
        ),
    ),
    (
        7,
        "will never fire",
        "sla",
        ("UPDATE clocks SET next_at = NULL WHERE ticket_id = '{late}' AND state = 'running'",),
    ),
    (
        7,
        "both met and late",
        "sla",
        ("UPDATE clocks SET stopped_at = due_at + interval '1 second' WHERE state = 'met'",),
    ),
    (
        8,
        "parked behind nothing",
        "review",
        (
            "INSERT INTO parked_events (subject, publisher, version, topic, partition, record_offset, headers, payload,"
            " reason) VALUES ('{late}', 'sla', 99, 'gongdan.sla', 0, 0, '[]', '', 'waits for version 98')",
        ),
    ),
    (8, "a dead letter that is in no table", "review", ("DELETE FROM dead_letters",)),
    (
        8,
        "a dead letter that is not on its topic",
        "review",
        (
            "INSERT INTO dead_letters (topic, partition, record_offset, headers, error, attempts, failed_at)"
            " VALUES ('gongdan.sla', 3, 4711, '[]', 'never sent', 2, now() + interval '1 minute')",
        ),
    ),
    (
        9,
        "offset behind the end of the log",
        "sla",
        ("UPDATE consumer_offsets SET next_offset = next_offset + 100000 WHERE topic = 'gongdan.intake'",),
    ),
    (9, "offset of another log", "intake", ("UPDATE consumer_offsets SET incarnation = 'x'",)),
    (9, "review reads 0 of 8 partitions", "review", ("DELETE FROM consumer_offsets WHERE topic = 'gongdan.sla'",)),
    (
        10,
        "not exactly one row in the audit trail",
        "dispatch",
        ("DELETE FROM audit_trail WHERE subject = '{closed}' AND action = 'ticket.closed'",),
    ),
    (
        11,
        "a canary in database review: reviews.snapshot",
        "review",
        ("UPDATE reviews SET snapshot = snapshot || '{{\"content\": \"我是欧阳不存在\"}}' WHERE ticket_id = '{late}'",),
    ),
    (
        11,
        "a mobile number in database dispatch: outbox",
        "dispatch",
        (
            "UPDATE outbox SET payload = convert_to('{{\"phone\": \"13912345678\"}}', 'UTF8')"
            " WHERE subject = '{late}' AND topic = 'gongdan.dispatch'",
        ),
    ),
]


@pytest.mark.parametrize(("number", "words", "service", "statements"), FAULTS, ids=[fault[1] for fault in FAULTS])
async def test_a_planted_fault_is_named(
    played: Played, tmp_path: Path, number: int, words: str, service: str, statements: tuple[str, ...]
) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text(json.dumps({"n": 1, "at": NOW.isoformat(), "phase": "sent", "canaries": [NAME]}))
    results = await played.damaged(service, *statements, journal=journal)
    named = [text for text in results[number].shown if text.startswith(words)]
    assert named, broken(results)
    tickets = [getattr(played, name) for name in ("closed", "withdrawn", "late") if f"{{{name}}}" in statements[0]]
    if number not in (4, 11) or "timeline" not in words:
        assert all(any(ticket in text for text in named) for ticket in tickets if number != 11), named
