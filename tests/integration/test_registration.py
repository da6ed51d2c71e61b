"""Registrations that meet: groups of one process in flight together, and two processes on one database."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
import pytest_asyncio

from services.intake.schemas import RegisterTicket
from services.intake.usecases.desk import Desk
from services.intake.usecases.register import Registration, register_tickets, registration_of
from shared.clock import Clock
from shared.contracts.intake import TicketRegistered
from shared.database.engine import Database
from shared.database.group_commit import GroupCommit
from shared.errors import Invalid
from shared.http.keys import Role
from shared.http.principal import Principal
from shared.ids import new_id
from shared.policy import load_pack
from shared.privacy import Vault
from shared.telemetry.tracing import begin_trace
from tests.support.parts import Databases
from tests.support.tickets import complaint, phone

HALL = Principal("key", Role.front_line, "hall", None, "client")
# With keys and with external ids; more than one group of them is in flight at once.
COMPLAINTS = 60


class House:
    """One database of intake, and as many processes as are wanted: each has a pool and a group commit of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        key = base64.b64encode(os.urandom(32)).decode()
        self.desk = Desk(load_pack("mobile_operator"), Vault(key, key), Clock())
        self.databases: list[Database] = []

    def process(self) -> GroupCommit[Registration, bytes]:
        database = Database(self._url)
        self.databases.append(database)
        return GroupCommit(lambda items: register_tickets(self.desk, database, items), Registration.touches)

    def registration(self, key: str | None = None, **changes: Any) -> Registration:
        body = orjson.dumps(complaint(**changes))
        return registration_of(self.desk, RegisterTicket.model_validate_json(body), HALL, body, key)

    async def rows(self, query: str, *values: Any) -> list[Any]:
        return await self.databases[0].read(lambda connection: connection.fetch(query, *values))

    async def count(self, table: str) -> int:
        ((count,),) = await self.rows(f"SELECT count(*) FROM {table}")
        return int(count)


@pytest_asyncio.fixture
async def house(databases: Databases) -> AsyncIterator[House]:
    found = House(await databases.fresh("intake"))
    found.process()
    async with found.databases[0].transaction() as transaction:
        found.desk.clock.sync(await transaction.now())
    yield found
    for database in found.databases:
        await database.close()


def sent(commits: GroupCommit[Registration, bytes], registrations: Sequence[Registration]) -> Any:
    return asyncio.gather(*map(commits.submit, registrations), return_exceptions=True)


async def test_two_processes_that_are_sent_the_same_complaints_store_each_once(house: House) -> None:
    """Also the other way round, so that each holds what the other waits for."""
    keyed = [house.registration(f"key-{number}") for number in range(COMPLAINTS)]
    named = [house.registration(external_id=f"external-{number}") for number in range(COMPLAINTS)]
    one, other = house.process(), house.process()
    for given in (keyed, named):
        before = await house.count("tickets")
        first, second = await asyncio.gather(sent(one, given), sent(other, given[::-1]))
        assert first == second[::-1]
        assert all(isinstance(answer, bytes) for answer in first)
        assert await house.count("tickets") == before + COMPLAINTS
    # Nothing is left of a statement that came second.
    stored = await house.count("tickets")
    assert [await house.count(table) for table in ("ticket_timeline", "outbox")] == [stored, stored]
    assert len(await house.rows("SELECT 1 FROM audit_trail WHERE action = 'ticket.registered'")) == stored
    assert await house.count("idempotency_keys") == COMPLAINTS


async def test_a_key_used_for_two_complaints_at_once_stores_one_of_them(house: House) -> None:
    one, other = house.process(), house.process()
    for number in range(20):
        answers = await asyncio.gather(
            sent(one, [house.registration(f"same-{number}")]), sent(other, [house.registration(f"same-{number}")])
        )
        kinds = sorted(type(answer).__name__ for (answer,) in answers)
        assert kinds == [Invalid.__name__, bytes.__name__]
        assert await house.count("tickets") == number + 1


async def test_complaints_of_one_customer_at_once_name_the_first(house: House) -> None:
    """Their groups would not see each other's tickets, so they wait for each other."""
    commits, caller = house.process(), phone()
    given = [house.registration(customer={"phone": caller if number % 3 == 0 else phone()}) for number in range(90)]
    answers = await asyncio.gather(*(slowly(commits, each, number) for number, each in enumerate(given)))
    numbers = [orjson.loads(answer)["ticket_no"] for answer in answers[::3]]
    rows = await house.rows(
        "SELECT ticket_no, snapshot->'open_duplicate'->>'ticket_no' AS first FROM tickets WHERE ticket_no = ANY($1)",
        numbers,
    )
    firsts = [row["ticket_no"] for row in rows if row["first"] is None]
    assert len(firsts) == 1
    assert {row["first"] for row in rows} == {None, firsts[0]}


async def slowly(commits: GroupCommit[Registration, bytes], given: Registration, number: int) -> bytes:
    """One after the other, a millisecond apart, so that groups of all sizes form."""
    await asyncio.sleep(number / 1000)
    return await commits.submit(given)


async def test_an_external_id_seen_before_keeps_its_answer_under_a_new_key(house: House) -> None:
    commits = house.process()
    body = complaint(external_id="JN-1")
    raw = orjson.dumps(body)
    first, again = (
        registration_of(house.desk, RegisterTicket.model_validate_json(raw), HALL, raw, key) for key in (None, "new")
    )
    answer = await commits.submit(first)
    assert await commits.submit(again) == answer
    kept = await house.rows("SELECT answer FROM idempotency_keys WHERE key = 'new'")
    assert [bytes(row["answer"]) for row in kept] == [answer]
    assert await house.count("tickets") == 1


async def test_a_registration_leaves_behind_what_a_transaction_leaves_of_an_event(house: House) -> None:
    trace = begin_trace()
    await house.process().submit(house.registration())
    ((subject, payload, time),) = await house.rows("SELECT subject, payload, time FROM outbox")
    event = TicketRegistered.model_validate_json(payload)
    other = new_id()
    async with house.databases[0].transaction() as transaction:
        transaction.publish(event, subject=other, version=1, time=time)
    left = [
        dict(row)
        for each in (subject, other)
        for row in await house.rows(
            "SELECT topic, version, type, time, traceparent, headers, actor, action,"
            " replace(details, event_id::text, '') AS details"
            " FROM outbox JOIN audit_trail ON audit_trail.subject = outbox.subject::text WHERE outbox.subject = $1",
            each,
        )
    ]
    assert len(left) == 2
    assert left[0] == left[1]
    assert left[0]["traceparent"] == trace
