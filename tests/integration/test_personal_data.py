"""Personal data at rest: keys that change while it runs, and what happens without the right one."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr
from sqlalchemy import text

from services.intake import repository
from services.intake.app import build
from services.intake.settings import Settings
from shared.database.connection import Connection, Result
from shared.telemetry import metrics
from tests.support.apps import App, random_key, running_app
from tests.support.parts import Databases
from tests.support.sites import refusal
from tests.support.tickets import complaint, phone

INDEX_KEY = random_key()


class Office:
    """One database of intake that processes with different keys serve one after the other."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder

    @asynccontextmanager
    async def open(self, *keys: SecretStr) -> AsyncIterator[App]:
        data_key = SecretStr(",".join(key.get_secret_value() for key in keys))
        given = {"data_key": data_key, "index_key": INDEX_KEY}
        async with running_app(build, Settings, self._url, self._folder, **given) as app:
            yield app
            await app.service.leases.close()


@pytest_asyncio.fixture
async def office(databases: Databases, tmp_path: Path) -> Office:
    return Office(await databases.fresh("intake"), tmp_path)


async def take(app: App, number: str) -> str:
    async with app.client("front_line") as front:
        answer = await front.post("/v1/tickets", json=complaint(customer={"phone": number, "name": "诸葛孔明"}))
    return str(answer.json()["ticket_no"])


async def get(app: App, path: str) -> Any:
    async with app.client("callback") as reader:
        return await reader.get(path)


async def keep(app: App) -> None:
    """One round of the timed work."""
    (job,) = app.service._jobs
    await job.__self__.keep_once()  # type: ignore[attr-defined]


def warnings(app: App) -> list[str]:
    return [line for warn in app.service.warnings for line in warn()]


async def test_a_data_key_is_changed_while_everything_can_be_read(office: Office) -> None:
    old, new = random_key(), random_key()
    numbers = [phone() for _ in range(230)]
    async with office.open(old) as app:
        tickets = [await take(app, number) for number in numbers]
    async with office.open(new, old) as app:
        assert (await get(app, f"/v1/tickets/{tickets[0]}/contact")).json()["phone"] == numbers[0]
        tickets.append(await take(app, phone()))
        await keep(app)
        assert warnings(app) == []
    async with office.open(new) as app:
        for number, ticket in zip(numbers, tickets, strict=False):
            assert (await get(app, f"/v1/tickets/{ticket}/contact")).json()["phone"] == number
        await keep(app)
        assert warnings(app) == []


async def test_readiness_says_how_many_tickets_still_need_the_old_key(office: Office) -> None:
    old, new = random_key(), random_key()
    async with office.open(old) as app:
        tickets = [await take(app, phone()) for _ in range(3)]
    async with office.open(new, old) as app:
        async with app.service.database.transaction() as somebody:
            await somebody.connection.execute(
                text("SELECT 1 FROM tickets WHERE ticket_no = :no FOR UPDATE"), {"no": tickets[0]}
            )
            await keep(app)
            assert warnings(app) == ["1 tickets are still sealed with an old key"]
        await keep(app)
        assert warnings(app) == []


async def test_everything_is_sealed_anew_before_anything_is_counted(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after a change of keys the count would read every ticket, for longer than a statement may take."""
    old, new = random_key(), random_key()
    async with office.open(old) as app:
        for _ in range(3):
            await take(app, phone())
        await keep(app)
    async with office.open(new, old) as app:
        statements: list[str] = []

        execute = Connection.execute

        async def noted(connection: Connection, statement: Any, given: Any = None) -> Result:
            written = str(statement)
            statements.append("count" if "count(" in written else written.split()[0])
            return await execute(connection, statement, given)

        monkeypatch.setattr(Connection, "execute", noted)
        await keep(app)
        assert statements.index("UPDATE") < statements.index("count")


async def test_until_it_was_counted_nobody_says_that_the_old_key_may_go(office: Office) -> None:
    old, new = random_key(), random_key()
    async with office.open(old) as app:
        await take(app, phone())
    metrics.personal_old_key_rows.set(math.nan)
    async with office.open(new, old) as app:
        assert warnings(app) == [], "who does not do this work does not know"
        async with app.service.database.transaction() as somebody:
            await somebody.connection.execute(text("LOCK TABLE tickets IN ACCESS EXCLUSIVE MODE"))
            (job,) = app.service._jobs
            keeping = asyncio.ensure_future(job())
            await asyncio.sleep(0.5)
            assert warnings(app) == ["how many tickets are still sealed with an old key is not known yet"]
            assert math.isnan(metrics.personal_old_key_rows._value.get())
        for _ in range(100):
            if not warnings(app):
                break
            await asyncio.sleep(0.1)
        assert (warnings(app), metrics.personal_old_key_rows._value.get()) == ([], 0)
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping


async def test_more_than_can_be_counted_is_said_so(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "COUNTED", 2)
    async with office.open(random_key()) as app:
        for _ in range(4):
            await take(app, phone())
    async with office.open(random_key()) as app:
        await keep(app)
        assert warnings(app) == ["more than 2 tickets are sealed with a key that is not in INTAKE_DATA_KEY"]
        assert metrics.personal_old_key_rows._value.get() == 3


async def test_without_its_key_a_contact_is_a_clear_refusal_and_readiness_names_the_setting(office: Office) -> None:
    old, new = random_key(), random_key()
    async with office.open(old) as app:
        lost = await take(app, phone())
    async with office.open(new) as app:
        found = await take(app, phone())
        assert refusal(await get(app, f"/v1/tickets/{lost}/contact")) == (409, "data_key_missing")
        assert (await get(app, f"/v1/tickets/{found}/contact")).status_code == 200
        assert (await get(app, f"/v1/tickets/{lost}")).json()["customer"] is None
        async with app.client("front_line") as front:
            answer = await front.post(f"/v1/tickets/{lost}/withdraw", json={"reason": "x"})
        assert refusal(answer) == (409, "data_key_missing")
        await keep(app)
        assert warnings(app) == ["1 tickets are sealed with a key that is not in INTAKE_DATA_KEY"]
    async with office.open(new, old) as app:
        await keep(app)
        assert (warnings(app), (await get(app, f"/v1/tickets/{lost}/contact")).status_code) == ([], 200)


async def test_a_refused_read_of_a_contact_is_not_written_down_as_one(office: Office) -> None:
    async with office.open(random_key()) as app:
        ticket = await take(app, phone())
    async with office.open(random_key()) as app:
        await get(app, f"/v1/tickets/{ticket}/contact")
        timeline = (await get(app, f"/v1/tickets/{ticket}/timeline")).json()
        assert [entry["type"] for entry in timeline["entries"]] == ["ticket.registered"]


async def test_an_altered_row_is_a_clear_refusal(office: Office) -> None:
    async with office.open(random_key()) as app:
        ticket = await take(app, phone())
        async with app.service.database.transaction() as transaction:
            await transaction.connection.execute(
                text("UPDATE tickets SET personal = set_byte(personal, 30, (get_byte(personal, 30) + 1) % 256)")
            )
        assert refusal(await get(app, f"/v1/tickets/{ticket}/contact")) == (409, "contact_unreadable")


async def test_who_only_runs_the_system_sees_nothing_of_the_customer(office: Office) -> None:
    async with office.open(random_key()) as app:
        number = phone()
        ticket = await take(app, number)
        masked = f"138****{number[-4:]}"
        for role, shown in (("reviewer", masked), ("callback", masked), ("ops", None)):
            async with app.client(role) as reader:
                view = (await reader.get(f"/v1/tickets/{ticket}")).json()
                page = (await reader.get("/v1/tickets")).json()["items"][0]
            assert view["customer"] == page["customer"]
            assert (view["customer"] or {}).get("phone") == shown
