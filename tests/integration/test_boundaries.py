"""What belongs to another branch or another channel does not exist: not by its id, not in a list, not in an error.

Jinan has a ticket of the service hall in all four services. Qingdao, and a front line that serves the website only,
try every route that takes an id, and every list, as the apps describe them: a new route is tried too.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest
import pytest_asyncio
from sqlalchemy import text

from services.dispatch.app import build as build_dispatch
from services.dispatch.consumers import DispatchProjection
from services.dispatch.settings import Settings as DispatchSettings
from services.dispatch.usecases import Desk as DispatchDesk
from services.intake.app import build as build_intake
from services.intake.consumers import Intake
from services.intake.settings import Settings as IntakeSettings
from services.review.app import build as build_review
from services.review.consumers import ReviewProjection
from services.review.settings import Settings as ReviewSettings
from services.review.usecases import Desk as ReviewDesk
from services.sla.app import build as build_sla
from services.sla.settings import Settings as SlaSettings
from shared.calendar import WorkingCalendar, package_days
from shared.contracts.intake import TicketRegistered
from shared.contracts.review import ReviewApproved
from shared.http.keys import Role
from shared.http.paging import cursor_out
from shared.ids import new_id
from tests.architecture.services import SERVICES
from tests.support import sla
from tests.support.apps import App, random_key, running_app
from tests.support.parts import Databases
from tests.support.routes import Route, guarded
from tests.support.sites import BASIS, NOBODYS, Site, event, ticket_number
from tests.support.snapshots import NOW, PACK, snapshot
from tests.support.tickets import complaint, phone

# Valid bodies, so that nothing but the id can be at fault. A route that takes none or that these callers may never use
# needs no entry.
BODIES: dict[str, Any] = {
    "/v1/orders/{reference}/progress": {"note": "已联系"},
    "/v1/orders/{reference}/reply": {
        "process": "已上门检测",
        "content": "信号已恢复",
        "satisfaction": "not_called",
        "replier": "王工",
        "replied_at": datetime.now(UTC).isoformat(),
    },
    "/v1/orders/{reference}/return": {"reason_code": "RT_OTHER"},
    "/v1/orders/{reference}/transfer": {"to_branch": "weifang", "reason": "外地"},
    "/v1/orders/{reference}/raise": {"reason": "超出权限"},
    "/v1/orders/{reference}/urge": {"reason": "客户催办"},
    "/v1/tickets/{reference}/supplement": {"note": "补充"},
    "/v1/tickets/{reference}/withdraw": {"reason": "已解决"},
    "/v1/tickets/{reference}/answer": {"answer": "已答复"},
}
# These name a day, not something that belongs to anybody.
NOBODYS_PARAMETERS = {"day"}
OUTSIDERS = {"qingdao": Role.branch, "website": Role.front_line}


@dataclass
class World:
    """One service. `ours` is Jinan's, by the name of a path's parameter; `marks` are what must never be seen of it."""

    app: App
    ours: dict[str, list[str]]
    theirs: dict[str, str]
    marks: set[str]
    phone: str = "13899999999"
    more: dict[str, Any] = field(default_factory=dict)

    def nobodys(self, name: str, value: str) -> str:
        return NOBODYS if name == "reference" and value.startswith("T") else str(new_id())


async def intake_world(url: str, folder: Path) -> AsyncIterator[World]:
    async with running_app(
        build_intake, IntakeSettings, url, folder, data_key=random_key(), index_key=random_key()
    ) as app:
        site = Site(app, Intake(), "tickets")
        number = phone()
        made = {}
        for owner, channel in (("jinan", "service_hall"), ("qingdao", "account_manager"), ("website", "website")):
            body = complaint(channel=channel, customer={"phone": number if owner == "jinan" else phone()})
            made[owner] = (await site.post("front_line", "/v1/tickets", body)).json()
        for branch in ("jinan", "qingdao"):
            ticket = snapshot(ticket_no=made[branch]["ticket_no"])
            told = event(TicketRegistered(ticket=ticket, actor="a"), UUID(made[branch]["ticket_id"]), "intake")
            await site.apply(sla.dispatched(told, NOW, branch))
        ours = made["jinan"]
        view = (await site.get("supervisor", ours["links"]["self"])).json()
        customer = view["ticket"]["customer"]["key"]
        yield World(
            app,
            {"reference": [ours["ticket_no"], ours["ticket_id"]]},
            {owner: made[owner]["ticket_no"] for owner in OUTSIDERS},
            {ours["ticket_no"], ours["ticket_id"], customer, number},
            phone=number,
            more={"customer_key": customer},
        )


async def dispatch_world(url: str, folder: Path) -> AsyncIterator[World]:
    async with running_app(build_dispatch, DispatchSettings, url, folder) as app:
        days = {day: worked for day, worked, _ in package_days(2025, 2026)}
        calendar = WorkingCalendar(days, PACK.working_hours, PACK.tz, max(days))
        desk = DispatchDesk(PACK, calendar, app.service.clock, "http://intake", "http://dispatch")
        site = Site(app, DispatchProjection(desk), "work_orders")
        ids: dict[str, tuple[str, UUID]] = {}
        for owner, channel in (("jinan", "service_hall"), ("qingdao", "account_manager"), ("website", "website")):
            number, ticket_id = ticket_number(), new_id()
            ticket = snapshot(ticket_no=number, channel=channel, customer={"key": owner.ljust(32, "k")})
            branch = owner if owner in PACK.branch_by_id else "weifang"
            approved = ReviewApproved(ticket=ticket, round=1, automatic=False, branch=branch, basis=BASIS, actor="r")
            await site.apply(event(approved, ticket_id, "review"))
            ids[owner] = number, ticket_id
        number, ticket_id = ids["jinan"]
        yield World(
            app,
            {"reference": [number, str(ticket_id)]},
            {"qingdao": ids["qingdao"][0]},
            {number, str(ticket_id), "jinan".ljust(32, "k")},
        )


async def review_world(url: str, folder: Path) -> AsyncIterator[World]:
    async with running_app(build_review, ReviewSettings, url, folder) as app:
        site = Site(app, ReviewProjection(ReviewDesk(PACK, app.service.clock, 900)), "reviews")
        number, ticket_id = ticket_number(), new_id()
        ticket = snapshot(ticket_no=number, flags=("media_risk",))
        await site.apply(event(TicketRegistered(ticket=ticket, actor="a"), ticket_id, "intake"))
        await site.post("reviewer", f"/v1/reviews/{number}/reclassify", {"add_classes": ["major"]})
        (approval,) = (await site.get("supervisor", "/v1/approvals")).json()["items"]
        ours = {"reference": [number, str(ticket_id)], "approval_id": [approval["approval_id"]]}
        yield World(app, ours, {}, {number, str(ticket_id), approval["approval_id"]})


async def sla_world(url: str, folder: Path, databases: Databases) -> AsyncIterator[World]:
    async with (
        running_app(build_sla, SlaSettings, url, folder) as app,
        sla.running_bench(databases, url) as bench,
    ):
        now = await bench.now()
        made = {}
        for owner, channel in (("jinan", "service_hall"), ("qingdao", "account_manager"), ("website", "website")):
            ticket = made[owner] = sla.registered(now - 50 * sla.HOUR, channel=channel)
            branch = owner if owner in PACK.branch_by_id else "weifang"
            await bench.one_by_one(ticket, sla.dispatched(ticket, now - 49 * sla.HOUR, branch))
        soon = sla.registered(now - 47 * sla.HOUR - 30 * sla.MINUTE)
        await bench.one_by_one(soon, sla.dispatched(soon, now, "jinan"))
        await bench.apply(*(sla.registered(now - 30 * sla.MINUTE, city="rizhao") for _ in range(11)))
        await bench.sweep_all()
        ours = made["jinan"]
        escalations = await bench.query("SELECT escalation_id FROM escalations WHERE ticket_id = :id", id=ours.subject)
        incident = await bench.one("SELECT incident_id FROM incidents")
        number = ours.data.ticket.ticket_no
        values = {
            "reference": [number, str(ours.subject)],
            "escalation_id": [str(escalations[0][0])],
            "incident_id": [str(incident)],
        }
        marks = {number, str(ours.subject), soon.data.ticket.ticket_no, *(str(row[0]) for row in escalations)}
        yield World(
            app, values, {owner: made[owner].data.ticket.ticket_no for owner in OUTSIDERS}, marks | {str(incident)}
        )


@pytest_asyncio.fixture(scope="module", params=SERVICES)
async def world(
    request: pytest.FixtureRequest, databases: Databases, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    service = request.param
    url, folder = await databases.fresh(service), tmp_path_factory.mktemp(service)
    makers = {"intake": intake_world, "dispatch": dispatch_world, "review": review_world}
    worlds = sla_world(url, folder, databases) if service == "sla" else makers[service](url, folder)
    async for made in worlds:
        yield made


@pytest_asyncio.fixture
async def intake(databases: Databases, tmp_path: Path) -> AsyncIterator[World]:
    async for made in intake_world(await databases.fresh("intake"), tmp_path):
        yield made


def told(answer: httpx.Response) -> tuple[int, str, bytes]:
    """What the answer tells, byte by byte but for the trace id, which is another one each time."""
    body = answer.content
    if answer.headers["content-type"] == "application/problem+json":
        body = body.replace(orjson.loads(body)["trace_id"].encode(), b"")
    return answer.status_code, answer.headers["content-type"], body


def with_ids(world: World) -> list[Route]:
    routes = [route for route in guarded(world.app.service.app) if set(route.parameters) - NOBODYS_PARAMETERS]
    assert routes
    return routes


def pairs(world: World, route: Route) -> list[tuple[str, str]]:
    """The route with an id of Jinan's, and with one of the same form that nobody has."""
    names = set(route.parameters) - NOBODYS_PARAMETERS
    if not names <= world.ours.keys():
        open_to = route.roles & set(OUTSIDERS.values())
        assert not open_to, f"{route} lets {open_to} in: say in this test which {names} is Jinan's"
        return [(route.url(), route.url(**dict.fromkeys(names, new_id())))]
    (name,) = names
    return [(route.url(**{name: value}), route.url(**{name: world.nobodys(name, value)})) for value in world.ours[name]]


@pytest.mark.parametrize("who", list(OUTSIDERS))
async def test_an_id_of_another_is_answered_as_one_that_nobody_has(world: World, who: str) -> None:
    async with world.app.client(who) as outsider:
        for route in with_ids(world):
            for ours, nobodys in pairs(world, route):
                body = BODIES.get(route.path)
                hidden = await outsider.request(route.method, ours, json=body)
                unknown = await outsider.request(route.method, nobodys, json=body)
                wanted = 404 if OUTSIDERS[who] in route.roles else 403
                assert told(hidden)[0] == wanted, f"{route}: {hidden.text}"
                assert told(hidden) == told(unknown), str(route)


def queries(world: World) -> list[dict[str, str]]:
    """Ways to ask a list for what is Jinan's."""
    asked = {
        "branch": "jinan",
        "channel": "service_hall",
        "city": "jinan",
        "category": "network.coverage.indoor",
        "customer_key": "jinan".ljust(32, "k"),
        "within_minutes": str(7 * 24 * 60),
        "year": "2026",
        **world.more,
    }
    found: list[dict[str, str]] = [{}, asked, *({name: value} for name, value in asked.items())]
    for value in (value for values in world.ours.values() for value in values if not value.startswith("T")):
        just_after = UUID(int=UUID(value).int + 1)
        found += [{"cursor": cursor_out(just_after)}, {"cursor": cursor_out(just_after), "limit": "1"}]
    return [{"limit": "200"} | query for query in found]


@pytest.mark.parametrize("who", list(OUTSIDERS))
async def test_no_list_and_no_search_shows_what_is_anothers(world: World, who: str) -> None:
    async with world.app.client(who) as outsider:
        for route in guarded(world.app.service.app):
            if set(route.parameters) - NOBODYS_PARAMETERS:
                continue
            for query in queries(world):
                body = {"phone": world.phone} if route.path == "/v1/tickets:search" else None
                answer = await outsider.request(route.method, route.url(day="2026-12-02"), params=query, json=body)
                assert answer.status_code in (200, 403, 415, 422), f"{route} {query}: {answer.text}"
                if OUTSIDERS[who] not in route.roles:
                    assert answer.status_code == 403, str(route)
                asked = set(query.values()) if answer.status_code == 422 else set()
                for mark in world.marks - asked:
                    assert mark not in answer.text, f"{route} {query}"


async def test_everybody_sees_their_own(world: World) -> None:
    """Or the tests above would be true of a service that shows nothing at all."""
    shown = dict.fromkeys([*OUTSIDERS, "supervisor"], "")
    for who in shown:
        async with world.app.client(who) as client:
            for route in guarded(world.app.service.app):
                if route.method == "GET" and (not route.parameters or route.parameters == ["reference"]):
                    url = route.url(reference=world.theirs.get(who, world.ours["reference"][0]))
                    answer = await client.get(url, params={"limit": "200", "within_minutes": "600", "year": "2026"})
                    shown[who] += answer.text if answer.status_code == 200 else ""
    assert any(mark in shown["supervisor"] for mark in world.marks)
    for who, number in world.theirs.items():
        assert number in shown[who], who


async def test_a_registration_tells_nothing_of_another_channel(intake: World) -> None:
    async with intake.app.client("front_line") as anybody, intake.app.client("website") as website:
        body = complaint(external_id="CRM-77")
        assert (await anybody.post("/v1/tickets", json=body)).status_code == 201
        first = await website.post("/v1/tickets", json=body)
        other = await website.post("/v1/tickets", json=body | {"external_id": "CRM-78"})
        assert told(first)[0] == 403
        assert told(first) == told(other)
        fresh = await website.post("/v1/tickets", json=body | {"channel": "website"})
        assert fresh.status_code == 201


async def test_a_branch_that_waited_while_its_ticket_went_elsewhere_reads_no_contact(intake: World) -> None:
    number, ticket_id = intake.ours["reference"]
    path = f"/v1/tickets/{number}/contact"
    async with intake.app.client("jinan") as former, intake.app.client("qingdao") as holder:
        assert (await former.get(path)).json()["phone"] == intake.phone
        async with intake.app.service.background.transaction() as transaction:
            await transaction.connection.execute(
                text("UPDATE tickets SET branch = 'qingdao' WHERE ticket_id = :id"), {"id": ticket_id}
            )
            reading = asyncio.create_task(former.get(path))
            await asyncio.wait([reading], timeout=0.5)
            assert not reading.done()
        late = await reading
        assert (late.status_code, intake.phone in late.text) == (404, False)
        assert (await holder.get(path)).json()["phone"] == intake.phone


@pytest.mark.parametrize("who", list(OUTSIDERS))
async def test_a_retry_key_does_not_open_what_another_was_answered(world: World, who: str) -> None:
    """The last one: here Jinan's ticket goes on."""
    answered = set()
    for route in with_ids(world):
        if route.method != "POST" or OUTSIDERS[who] not in route.roles:
            continue
        owner = "jinan" if Role.branch in route.roles else "front_line"
        for ours, nobodys in pairs(world, route):
            body, headers = BODIES.get(route.path), {"Idempotency-Key": f"the-same-for-all:{ours}"}
            async with world.app.client(owner) as insider, world.app.client(who) as outsider:
                answered.add((await insider.post(ours, json=body, headers=headers)).status_code)
                hidden = await outsider.post(ours, json=body, headers=headers)
                unknown = await outsider.post(nobodys, json=body, headers=headers)
            assert told(hidden)[0] == 404, str(route)
            assert told(hidden) == told(unknown), str(route)
    assert answered <= {200, 409}
