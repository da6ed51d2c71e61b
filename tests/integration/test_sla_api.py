"""sla over HTTP."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

import httpx
import pytest
import pytest_asyncio

from services.sla.app import build
from services.sla.settings import Settings
from shared.contracts.dispatch import OrderReturned
from shared.ids import new_id
from shared.messaging.events import Event
from tests.support.apps import App, running_app
from tests.support.parts import Databases
from tests.support.sla import BASIS, HOUR, MINUTE, Bench, dispatched, event, registered, running_bench, told
from tests.support.snapshots import PACK


@dataclass
class Desked:
    """The app with a bench on the same database."""

    app: App
    bench: Bench

    def client(self, role: str | None) -> httpx.AsyncClient:
        return self.app.client(role)


@pytest_asyncio.fixture(scope="module")
async def site(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desked]:
    url = await databases.fresh("sla")
    async with (
        running_app(build, Settings, url, tmp_path_factory.mktemp("sla")) as app,
        running_bench(databases, url) as bench,
    ):
        yield Desked(app, bench)


async def overdue(site: Desked, branch: str = "jinan") -> Event:
    """A ticket with that branch whose first reply is two hours late, swept."""
    now = await site.bench.now()
    ticket = registered(now - 50 * HOUR)
    await site.bench.one_by_one(ticket, dispatched(ticket, now - 49 * HOUR, branch))
    await site.bench.sweep_all()
    return ticket


async def test_a_ticket_shows_its_clocks_with_their_arithmetic(site: Desked) -> None:
    ticket = await overdue(site)
    number = ticket.data.ticket.ticket_no
    async with site.client("front_line") as front:
        by_number = (await front.get(f"/v1/tickets/{number}/clocks")).json()
        by_id = (await front.get(f"/v1/tickets/{ticket.subject}/clocks")).json()
    assert by_number == by_id
    clocks = {item["kind"]: item for item in by_number["items"]}
    first = clocks["first_reply"]
    assert (first["state"], first["rule"], first["cycle"]) == ("breached", "GDM-L11", 1)
    for item in by_number["items"]:
        between = datetime.fromisoformat(item["due_at"]) - datetime.fromisoformat(item["started_at"])
        assert item["counted_seconds"] + item["excluded_seconds"] == pytest.approx(between.total_seconds())
    due = datetime.fromisoformat(first["due_at"]).astimezone(PACK.tz).strftime("%Y-%m-%d %H:%M:%S")
    assert first["explanation"]["zh"].startswith("自 ")
    assert due in first["explanation"]["zh"]
    assert due in first["explanation"]["en"]
    assert "已超时" in first["explanation"]["zh"]
    assert "state: breached" in first["explanation"]["en"]


async def test_acknowledging_stops_the_ladder_and_keeps_the_breach(site: Desked) -> None:
    ticket = await overdue(site)
    async with site.client("supervisor") as supervisor:
        listed = (await supervisor.get(f"/v1/tickets/{ticket.subject}/escalations")).json()["items"]
        ours = [item for item in listed if item["clock"] == "first_reply"]
        assert [(item["rung"], item["status"]) for item in ours] == [(1, "open")]
        path = f"/v1/escalations/{ours[0]['escalation_id']}/acknowledge"
        assert (await site.bench.clock(ticket, "first_reply")).next_at is not None
        answers = [await supervisor.post(path, headers={"Idempotency-Key": "ack"}) for _ in range(2)]
        answers.append(await supervisor.post(path))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert answers[0].json()["acknowledged_by"] == "supervisor:test supervisor"
        unknown = await supervisor.post(f"/v1/escalations/{new_id()}/acknowledge")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "escalation_not_found")
    run = await site.bench.clock(ticket, "first_reply")
    assert (run.state, run.next_at, run.acknowledged_by) == ("breached", None, "supervisor:test supervisor")
    assert run.breached_at is not None
    async with site.client("jinan") as branch:
        refused = await branch.post(path)
        assert (refused.status_code, refused.json()["code"]) == (403, "role_not_allowed")


async def test_what_has_come_to_its_end_cannot_be_acknowledged(site: Desked) -> None:
    ticket = await overdue(site)
    await site.bench.apply(told(ticket, await site.bench.now()))
    async with site.client("supervisor") as supervisor:
        listed = (await supervisor.get(f"/v1/tickets/{ticket.subject}/escalations")).json()["items"]
        (ours,) = [item for item in listed if item["clock"] == "first_reply"]
        assert ours["status"] == "settled"
        late = await supervisor.post(f"/v1/escalations/{ours['escalation_id']}/acknowledge")
        assert (late.status_code, late.json()["code"]) == (409, "escalation_settled")


async def test_a_branch_sees_its_own_tickets_only(site: Desked) -> None:
    ticket = await overdue(site, "jinan")
    soon = registered(await site.bench.now() - 47 * HOUR - 30 * MINUTE)
    await site.bench.one_by_one(soon, dispatched(soon, await site.bench.now(), "jinan"))
    async with site.client("jinan") as ours, site.client("qingdao") as theirs:
        for path in (f"/v1/tickets/{ticket.subject}/clocks", f"/v1/tickets/{ticket.data.ticket.ticket_no}/escalations"):
            assert (await ours.get(path)).status_code == 200
            hidden = await theirs.get(path)
            assert (hidden.status_code, hidden.json()["code"]) == (404, "ticket_not_found")
            assert hidden.json() | {"trace_id": 0} == (
                await theirs.get(path.replace(str(ticket.subject), str(new_id())))
            ).json() | {"trace_id": 0}
        for path, key in (("/v1/escalations", "ticket_id"), ("/v1/due?within_minutes=60", "ticket_id")):
            assert (await ours.get(path)).json()["items"]
            assert {item[key] for item in (await theirs.get(path)).json()["items"]} == set()
        assert str(soon.subject) in [item["ticket_id"] for item in (await ours.get("/v1/due")).json()["items"]]
        refused = await ours.get("/v1/incidents")
        assert (refused.status_code, refused.json()["code"]) == (403, "role_not_allowed")


async def test_a_branch_that_gave_an_order_back_sees_it_until_another_has_it(site: Desked) -> None:
    ticket = await overdue(site, "jinan")
    path = f"/v1/tickets/{ticket.subject}/clocks"
    now = await site.bench.now()
    data = OrderReturned(branch="jinan", reason_code="RT_ELEMENTS_INCOMPLETE", basis=BASIS, actor="a")
    async with site.client("jinan") as ours, site.client("qingdao") as theirs:
        await site.bench.apply(event(data, ticket.subject, now))
        assert [(await each.get(path)).status_code for each in (ours, theirs)] == [200, 404]
        await site.bench.apply(dispatched(ticket, now, "qingdao"))
        assert [(await each.get(path)).status_code for each in (ours, theirs)] == [404, 200]


async def test_an_incident_shows_its_members_page_by_page(site: Desked) -> None:
    start = await site.bench.now() - 30 * MINUTE
    complaints = [registered(start, city="rizhao") for _ in range(11)]
    await site.bench.apply(*complaints)
    async with site.client("reviewer") as reviewer:
        items = (await reviewer.get("/v1/incidents?status=open")).json()["items"]
        (incident,) = [item for item in items if item["problem"]["city"] == "rizhao"]
        assert incident["member_count"] == 11
        seen: list[str] = []
        cursor: str | None = None
        while True:
            params = {"limit": "4"} | ({"cursor": cursor} if cursor else {})
            page = (await reviewer.get(f"/v1/incidents/{incident['incident_id']}", params=params)).json()
            seen += [member["ticket_id"] for member in page["members"]]
            if (cursor := page["next_cursor"]) is None:
                break
        assert sorted(seen) == sorted(str(each.subject) for each in complaints)
        unknown = await reviewer.get(f"/v1/incidents/{new_id()}")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "incident_not_found")


async def test_only_ops_and_supervisors_edit_the_calendar(site: Desked) -> None:
    body = {"working": False, "source": "国办发明电〔2026〕12号"}
    for role in ("front_line", "reviewer", "callback", "jinan"):
        async with site.client(role) as client:
            refused = await client.put("/v1/calendar/2026-12-02", json=body)
            assert (refused.status_code, refused.json()["code"]) == (403, "role_not_allowed")
            assert (await client.get("/v1/calendar?year=2026")).status_code == 200
    async with site.client(None) as stranger:
        assert (await stranger.put("/v1/calendar/2026-12-02", json=body)).status_code == 401
    async with site.client("ops") as ops, site.client("supervisor") as supervisor:
        changed = (await ops.put("/v1/calendar/2026-12-02", json=body)).json()
        assert (changed["working"], changed["changed_by"]) == (False, "ops:test ops")
        changed = (await supervisor.put("/v1/calendar/2026-12-02", json=body | {"working": True})).json()
        assert (changed["working"], changed["changed_by"]) == (True, "supervisor:test supervisor")
        for wrong, pointer in ((body | {"working": "sometimes"}, "/working"), ({"working": True}, "/source")):
            answer = await ops.put("/v1/calendar/2026-12-02", json=wrong)
            assert answer.status_code == 422
            assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
        assert (await ops.put("/v1/calendar/yesterday", json=body)).status_code == 422
