"""Whatever changes something over HTTP, and whoever reads personal data, leaves a row in the audit trail."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import text

from services.dispatch import app as dispatch_app
from services.dispatch import usecases as dispatch_usecases
from services.dispatch.consumers import DispatchProjection
from services.dispatch.settings import Settings as DispatchSettings
from services.intake import app as intake_app
from services.intake.consumers import Intake
from services.intake.settings import Settings as IntakeSettings
from services.review import app as review_app
from services.review import usecases as review_usecases
from services.review.consumers import ReviewProjection
from services.review.settings import Settings as ReviewSettings
from services.sla import app as sla_app
from services.sla.settings import Settings as SlaSettings
from shared.calendar import WorkingCalendar, package_days
from shared.contracts.intake import TicketRegistered
from shared.contracts.review import ReviewApproved, ReviewReturned
from shared.ids import new_id
from tests.support.apps import App, random_key, running_app
from tests.support.parts import Databases
from tests.support.sites import BASIS, Site, event, refusal, ticket_number
from tests.support.sla import HOUR, dispatched, registered, running_bench
from tests.support.snapshots import PACK, snapshot
from tests.support.tickets import complaint, phone

DEAD_LETTERS = text(
    "INSERT INTO dead_letters (topic, partition, record_offset, headers, payload, error, attempts)"
    " SELECT 'gongdan.control', 0, number, '[]', '{}', 'not a CloudEvent', 2 FROM generate_series(1, 2) AS number"
    " RETURNING id"
)
# It reads the log, so it needs a broker; its rows are seen in tests/e2e/test_console.py.
ELSEWHERE = {"POST /v1/ops/rebuild"}
WRITING = {"POST", "PUT", "PATCH", "DELETE"}


@dataclass
class Watched:
    """An app whose requests are counted in its audit trail, and the routes that were tried."""

    app: App
    tried: set[str]

    async def rows(self) -> int:
        async def run(connection: Any) -> int:
            return int((await connection.execute(text("SELECT count(*) FROM audit_trail"))).scalar_one())

        return await self.app.service.database.read(run)

    async def call(self, role: str, method: str, route: str, body: Any = None, **values: Any) -> httpx.Response:
        """The request succeeds and leaves at least one row, or this fails. A body of bytes goes as NDJSON."""
        before = await self.rows()
        given: dict[str, Any] = {"json": body}
        if isinstance(body, bytes):
            given = {"content": body, "headers": {"Content-Type": "application/x-ndjson"}}
        async with self.app.client(role) as client:
            answer = await client.request(method, route.format(**values), **given)
        assert answer.status_code in (200, 201), f"{method} {route}: {answer.status_code} {answer.text}"
        assert await self.rows() > before, f"{method} {route} left no row in the audit trail"
        self.tried.add(f"{method} {route}")
        return answer

    async def operate(self) -> None:
        """What every service offers to those who run it."""
        async with self.app.service.database.transaction() as transaction:
            await transaction.connection.execute(text("UPDATE outbox SET published_at = now()"))
            rows = await transaction.connection.execute(DEAD_LETTERS)
            first, second = rows.scalars()
        reason = {"reason": "a test"}
        await self.call("ops", "GET", "/v1/ops/dead-letters/{id}/raw", id=first)
        await self.call("ops", "POST", "/v1/ops/dead-letters:redrive", {"ids": [first], **reason})
        await self.call("ops", "POST", "/v1/ops/dead-letters:discard", {"ids": [second], **reason})
        await self.call("ops", "POST", "/v1/ops/replay", reason)
        await self.call("ops", "POST", "/v1/ops/pause", {"topic": "*", **reason})
        await self.call("ops", "POST", "/v1/ops/resume", {"topic": "*", **reason})

    def all_were_tried(self) -> None:
        writing = {
            f"{method} {context.path}"
            for context in iter_route_contexts(self.app.service.app.routes)
            for method in (context.methods or set()) & WRITING
        }
        assert {re.sub(r"{\w+}", "{}", route) for route in self.tried if not route.startswith("GET ")} == {
            re.sub(r"{\w+}", "{}", route) for route in writing - ELSEWHERE
        }


@asynccontextmanager
async def intake(databases: Databases, folder: Path) -> AsyncIterator[Watched]:
    url = await databases.fresh("intake")
    keys = {"data_key": random_key(), "index_key": random_key()}
    async with running_app(intake_app.build, IntakeSettings, url, folder, **keys) as app:
        watched = Watched(app, set())
        site = Site(app, Intake(), "tickets")
        customer = phone()

        async def take(number: str = customer) -> dict[str, Any]:
            body = complaint(customer={"phone": number})
            taken: dict[str, Any] = (await watched.call("front_line", "POST", "/v1/tickets", body)).json()
            return taken

        returned, withdrawn, answered = await take(), await take(), await take()
        given_back = ReviewReturned(
            ticket_no=returned["ticket_no"], round=1, reason_code="RT_OTHER", automatic=False, basis=BASIS, actor="a"
        )
        await site.apply(event(given_back, UUID(returned["ticket_id"]), "review"))
        for ticket, verb, request in (
            (returned, "supplement", {"content": "补充"}),
            (withdrawn, "withdraw", {"reason": "已解决"}),
            (answered, "answer", {"answer": "已答复"}),
        ):
            await watched.call("front_line", "POST", "/v1/tickets/{no}/" + verb, request, no=ticket["ticket_no"])
        await watched.call("front_line", "POST", "/v1/tickets:search", {"phone": customer})
        await watched.call("callback", "GET", "/v1/tickets/{no}/contact", no=returned["ticket_no"])
        leaving = phone()
        gone = await take(leaving)
        await watched.call("front_line", "POST", "/v1/tickets/{no}/withdraw", {"reason": "x"}, no=gone["ticket_no"])
        request = {"phone": leaving, "reason": f"客户 {leaving} 要求删除"}
        await watched.call("supervisor", "POST", "/v1/customers:erase", request)
        await watched.call("front_line", "POST", "/v1/tickets:batch", orjson.dumps(complaint()))
        await watched.operate()
        yield watched


@asynccontextmanager
async def review(databases: Databases, folder: Path) -> AsyncIterator[Watched]:
    url = await databases.fresh("review")
    async with running_app(review_app.build, ReviewSettings, url, folder) as app:
        watched = Watched(app, set())
        site = Site(app, ReviewProjection(review_usecases.Desk(PACK, app.service.clock, 900)), "reviews")

        async def waiting(*flags: str) -> str:
            number = ticket_number()
            ticket = snapshot(ticket_no=number, flags=("media_risk", *flags))
            await site.apply(event(TicketRegistered(ticket=ticket, actor="a"), new_id(), "intake"))
            return number

        async def decide(verb: str, body: Any = None, number: str | None = None) -> httpx.Response:
            number = number or await waiting()
            return await watched.call("reviewer", "POST", "/v1/reviews/{no}/" + verb, body, no=number)

        first = await waiting()
        await decide("claim", number=first)
        await decide("release", number=first)
        await watched.call("reviewer", "POST", "/v1/reviews:claim", {"count": 1})
        await decide("approve", {})
        await decide("return", {"reason_code": "RT_OTHER"})
        await decide("reclassify", {"add_classes": ["major"]})
        await decide("merge", {"into": first})
        approvals = (await site.get("supervisor", "/v1/approvals")).json()["items"]
        opinion = {"granted": True, "opinion": "同意"}
        asked = approvals[0]
        await watched.call("supervisor", "POST", "/v1/approvals/{id}/decide", opinion, id=asked["approval_id"])
        await decide("opinion", number=asked["ticket_no"])
        await watched.operate()
        yield watched


@asynccontextmanager
async def dispatch(databases: Databases, folder: Path) -> AsyncIterator[Watched]:
    url = await databases.fresh("dispatch")
    days = {day: worked for day, worked, _ in package_days(2025, 2026)}
    calendar = WorkingCalendar(days, PACK.working_hours, PACK.tz, max(days))
    async with running_app(dispatch_app.build, DispatchSettings, url, folder) as app:
        watched = Watched(app, set())
        desk = dispatch_usecases.Desk(PACK, calendar, app.service.clock, "http://intake", "http://dispatch")
        site = Site(app, DispatchProjection(desk), "work_orders")
        reply = {
            "process": "已检测",
            "content": "已恢复",
            "satisfaction": "not_called",
            "replier": "王工",
            "replied_at": datetime.now(UTC).isoformat(),
        }

        async def order() -> str:
            number = ticket_number()
            data = ReviewApproved(
                ticket=snapshot(ticket_no=number), round=1, automatic=True, basis=BASIS, actor="rules"
            )
            await site.apply(event(data, new_id(), "review"))
            return number

        async def do(number: str, verb: str, body: Any = None) -> None:
            await watched.call("supervisor", "POST", "/v1/orders/{no}/" + verb, body, no=number)

        first, closed = await order(), await order()
        await do(first, "accept")
        await do(first, "progress", {"note": "已联系"})
        await do(first, "urge", {"reason": "催办"})
        for number in (first, closed):
            await do(number, "reply", reply)
        await do(first, "callback", {"outcome": "not_reached"})
        await do(closed, "close", {"outcome": "satisfied"})
        await do(closed, "reopen", {"reason": "未解决"})
        await do(await order(), "return", {"reason_code": "RT_OTHER"})
        await do(await order(), "transfer", {"to_branch": "qingdao", "reason": "外地"})
        await do(await order(), "raise", {"reason": "超出权限"})
        await watched.operate()
        yield watched


@asynccontextmanager
async def sla(databases: Databases, folder: Path) -> AsyncIterator[Watched]:
    url = await databases.fresh("sla")
    async with (
        running_app(sla_app.build, SlaSettings, url, folder) as app,
        running_bench(databases, url) as bench,
    ):
        watched = Watched(app, set())
        now = await bench.now()
        late = registered(now - 50 * HOUR)
        await bench.one_by_one(late, dispatched(late, now - 49 * HOUR))
        await bench.sweep_all()
        async with app.client("supervisor") as client:
            raised = (await client.get("/v1/escalations", params={"status": "open"})).json()["items"][0]
        identity = raised["escalation_id"]
        await watched.call("supervisor", "POST", "/v1/escalations/{id}/acknowledge", id=identity)
        day = {"working": True, "source": "国办发明电"}
        await watched.call("supervisor", "PUT", "/v1/calendar/{day}", day, day="2026-12-05")
        await watched.operate()
        yield watched


Scene = Callable[[Databases, Path], Any]


@pytest.mark.parametrize("scene", [intake, review, dispatch, sla])
async def test_every_writing_route_leaves_a_row_in_the_audit_trail(
    databases: Databases, tmp_path: Path, scene: Scene
) -> None:
    async with scene(databases, tmp_path) as watched:
        watched.all_were_tried()


async def test_the_trail_names_the_customer_by_key_only(databases: Databases, tmp_path: Path) -> None:
    async with intake(databases, tmp_path) as watched:

        async def run(connection: Any) -> Any:
            return (await connection.execute(text("SELECT * FROM audit_trail ORDER BY id"))).all()

        rows = await watched.app.service.database.read(run)
    searched = next(row for row in rows if row.action == "customer.searched")
    assert searched.actor == "front_line:test front_line"
    assert re.fullmatch(r"[0-9a-f]{32}", searched.subject)
    assert not re.search(r"1380000\d{4}", str(rows))


async def test_one_check_of_the_trail_runs_at_a_time_beside_the_connections_of_requests(
    databases: Databases, tmp_path: Path
) -> None:
    url = await databases.fresh("review")
    async with (
        running_app(review_app.build, ReviewSettings, url, tmp_path, database_pool_size=1) as app,
        app.client("ops") as client,
    ):
        async with app.service.database.connection() as connection:
            assert (await client.get("/v1/ops/audit")).json()["intact"]
            await connection.execute(text("SELECT pg_advisory_lock(hashtext('gongdan audit'))"))
            assert refusal(await client.get("/v1/ops/audit")) == (409, "audit_running")
            await connection.execute(text("SELECT pg_advisory_unlock_all()"))
            assert (await client.get("/v1/ops/audit")).status_code == 200
