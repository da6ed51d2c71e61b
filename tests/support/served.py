"""The four apps behind real HTTP, each on a database in which something is: what a caller from outside can meet.

Rows come through each service's own projection or routes. `known` maps a path parameter to values that exist.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from services.dispatch import usecases as dispatch_usecases
from services.dispatch.app import build as build_dispatch
from services.dispatch.consumers import DispatchProjection
from services.dispatch.settings import Settings as DispatchSettings
from services.intake.app import build as build_intake
from services.intake.settings import Settings as IntakeSettings
from services.review import usecases as review_usecases
from services.review.app import build as build_review
from services.review.consumers import ReviewProjection
from services.review.settings import Settings as ReviewSettings
from services.sla.app import build as build_sla
from services.sla.settings import Settings as SlaSettings
from shared.calendar import WorkingCalendar, package_days
from shared.contracts.intake import TicketRegistered
from shared.contracts.review import ReviewApproved
from shared.ids import new_id
from tests.support.apps import App, random_key, running_app
from tests.support.parts import Databases, free_port
from tests.support.sites import BASIS, Site, event, ticket_number
from tests.support.sla import dispatched, registered, running_bench
from tests.support.snapshots import PACK, snapshot
from tests.support.tickets import complaint

ROWS = 60


@dataclass
class Served:
    """A service at `url`, one API key a role, and values of path parameters that exist there."""

    url: str
    keys: dict[str, str]
    known: dict[str, list[str]]


Known = dict[str, list[str]]


async def _intake(app: App) -> Known:
    async with app.client("front_line") as client:
        answers = await asyncio.gather(*(client.post("/v1/tickets", json=complaint()) for _ in range(ROWS)))
    found = [answer.json() for answer in answers]
    return {"reference": [body["ticket_no"] for body in found] + [found[0]["ticket_id"]]}


async def _review(app: App) -> Known:
    site = Site(app, ReviewProjection(review_usecases.Desk(PACK, app.service.clock, 900)), "reviews")
    numbers = [ticket_number() for _ in range(ROWS)]
    flags = ("media_risk",)
    await site.apply(
        *(
            event(
                TicketRegistered(ticket=snapshot(ticket_no=number, flags=flags, customer={"key": number}), actor="a"),
                new_id(),
                "intake",
            )
            for number in numbers
        )
    )
    for number in numbers[: ROWS // 3]:
        await site.post("reviewer", f"/v1/reviews/{number}/reclassify", {"add_classes": ["major"]})
    asked = (await site.get("supervisor", "/v1/approvals?limit=200")).json()["items"]
    return {"reference": numbers, "approval_id": [item["approval_id"] for item in asked]}


async def _dispatch(app: App) -> Known:
    days = {day: worked for day, worked, _ in package_days(2025, 2026)}
    calendar = WorkingCalendar(days, PACK.working_hours, PACK.tz, max(days))
    desk = dispatch_usecases.Desk(PACK, calendar, app.service.clock, "http://intake", "http://dispatch")
    site = Site(app, DispatchProjection(desk), "work_orders")
    numbers = [ticket_number() for _ in range(ROWS)]
    tickets = [snapshot(ticket_no=number) for number in numbers]
    await site.apply(
        *(
            event(
                ReviewApproved(ticket=ticket, round=1, automatic=True, basis=BASIS, actor="rules"), new_id(), "review"
            )
            for ticket in tickets
        )
    )
    reply = {"process": "已检测", "content": "已恢复", "satisfaction": "not_called", "replier": "王工"}
    for number in numbers[: ROWS // 3]:
        await site.post("jinan", f"/v1/orders/{number}/reply", reply | {"replied_at": datetime.now(UTC).isoformat()})
    return {"reference": numbers}


async def _sla(app: App, databases: Databases, url: str) -> Known:
    async with running_bench(databases, url) as bench:
        now = await bench.now()
        late = [registered(now - timedelta(hours=50)) for _ in range(ROWS)]
        await bench.apply(*late)
        await bench.apply(*(dispatched(ticket, now - timedelta(hours=49)) for ticket in late))
        await bench.sweep_all()
        escalations = await bench.query("SELECT escalation_id FROM escalations LIMIT 200")
        incidents = await bench.query("SELECT incident_id FROM incidents")
    return {
        "reference": [ticket.data.ticket.ticket_no for ticket in late],
        "escalation_id": [str(row[0]) for row in escalations],
        "incident_id": [str(row[0]) for row in incidents],
        "day": ["2026-10-10", "2026-11-23"],
    }


@asynccontextmanager
async def _listening(app: App, fill: Callable[[], Awaitable[Known]]) -> AsyncIterator[Served]:
    known = await fill()
    server = app.service._server()
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(30):
        while not server.started:  # noqa: ASYNC110 - uvicorn tells by this flag only
            await asyncio.sleep(0.01)
    try:
        yield Served(f"http://127.0.0.1:{app.service.settings.http_port}", app.keys, known)
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def served(service: str, databases: Databases, folder: Path) -> AsyncIterator[Served]:
    """Serve one service by its name until left."""
    url, port = await databases.fresh(service), free_port()
    if service == "intake":
        secrets = {"data_key": random_key(), "index_key": random_key()}
        async with running_app(build_intake, IntakeSettings, url, folder, http_port=port, **secrets) as app:
            async with _listening(app, lambda: _intake(app)) as listening:
                yield listening
    elif service == "review":
        async with running_app(build_review, ReviewSettings, url, folder, http_port=port) as app:
            async with _listening(app, lambda: _review(app)) as listening:
                yield listening
    elif service == "dispatch":
        async with running_app(build_dispatch, DispatchSettings, url, folder, http_port=port) as app:
            async with _listening(app, lambda: _dispatch(app)) as listening:
                yield listening
    else:
        async with running_app(build_sla, SlaSettings, url, folder, http_port=port) as app:
            async with _listening(app, lambda: _sla(app, databases, url)) as listening:
                yield listening
