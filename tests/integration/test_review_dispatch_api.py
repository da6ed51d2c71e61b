"""review and dispatch over HTTP on real databases; their rows come through the services' own projections."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import text

from services.dispatch import usecases as dispatch_usecases
from services.dispatch.app import build as build_dispatch
from services.dispatch.consumers import DispatchProjection
from services.dispatch.settings import Settings as DispatchSettings
from services.review import usecases as review_usecases
from services.review.app import build as build_review
from services.review.consumers import ReviewProjection
from services.review.settings import Settings as ReviewSettings
from shared.calendar import WorkingCalendar, package_days
from shared.contracts.envelope import Envelope
from shared.contracts.intake import TicketRegistered, TicketWithdrawn
from shared.contracts.review import ReviewApproved
from shared.contracts.sla import EscalationRaised
from shared.contracts.ticket import Basis
from shared.ids import new_id
from shared.messaging.events import Event, Record
from tests.support.apps import App, running_app
from tests.support.parts import Databases
from tests.support.snapshots import PACK, snapshot

BASIS = Basis(pack=PACK.id, version=PACK.version)
NOBODYS = "T20261122-9999999"

_numbers = itertools.count(1)


def event(data: Any, subject: UUID, publisher: str) -> Event:
    envelope = Envelope(new_id(), f"/gongdan/{publisher}", data.TYPE, subject, datetime.now(UTC), 1)
    return Event(envelope, data, Record(data.TOPIC, 0, 0, None, (), b""))


@dataclass
class Site:
    """An app and the projection that fills its `table`."""

    app: App
    projection: Any
    table: str

    def client(self, role: str | None) -> httpx.AsyncClient:
        return self.app.client(role)

    async def apply(self, *events: Event) -> None:
        async with self.app.service.database.transaction() as transaction:
            state = await self.projection.load(transaction, events)
            for each in events:
                self.projection.apply(state, each)
            await self.projection.save(transaction, state)

    async def post(self, role: str, path: str, body: Any = None, key: str | None = None) -> httpx.Response:
        async with self.client(role) as client:
            return await client.post(path, json=body, headers={"Idempotency-Key": key} if key else {})

    async def get(self, role: str, path: str) -> httpx.Response:
        async with self.client(role) as client:
            return await client.get(path)

    async def published(self, number: str) -> list[str]:
        """The types in the outbox of this ticket on the service's own topic, in their order."""

        async def run(connection: Any) -> list[str]:
            rows = await connection.execute(
                text(
                    "SELECT type FROM outbox WHERE topic NOT LIKE 'gongdan.dispatch.%' AND"
                    f" subject = (SELECT ticket_id FROM {self.table} WHERE ticket_no = :number) ORDER BY id"
                ),
                {"number": number},
            )
            return [row[0] for row in rows]

        return await self.app.service.database.read(run)

    async def execute(self, sql: str, **values: Any) -> None:
        async with self.app.service.database.transaction() as transaction:
            await transaction.connection.execute(text(sql), values)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def pointers(answer: httpx.Response) -> list[str]:
    return [error["pointer"] for error in answer.json()["errors"]]


# ---- review ----------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def review(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    url = await databases.fresh("review")
    async with running_app(build_review, ReviewSettings, url, tmp_path_factory.mktemp("review")) as app:
        yield Site(app, ReviewProjection(review_usecases.Desk(PACK, app.service.clock, 900)), "reviews")


async def register(site: Site, *flags: str, customer: str | None = None, **changes: Any) -> tuple[str, UUID]:
    """A ticket that review knows. With the flag `media_risk` it waits for a person."""
    number, ticket_id = f"T20261122-{next(_numbers):07d}", new_id()
    ticket = snapshot(ticket_no=number, flags=flags, customer={"key": customer or number}, **changes)
    await site.apply(event(TicketRegistered(ticket=ticket, actor="a"), ticket_id, "intake"))
    return number, ticket_id


async def waiting(site: Site, *flags: str, customer: str | None = None) -> str:
    number, _ = await register(site, "media_risk", *flags, customer=customer)
    return number


async def test_a_claim_keeps_a_review_from_others_until_it_lapses(review: Site) -> None:
    number = await waiting(review)
    path = f"/v1/reviews/{number}"
    claimed = (await review.post("reviewer", f"{path}/claim")).json()
    assert claimed["claimed_by"] == "reviewer:test reviewer"
    assert claimed["claimed_until"] is not None
    assert (await review.post("reviewer", f"{path}/claim")).status_code == 200
    for verb, body in (
        ("claim", None),
        ("approve", {}),
        ("return", {"reason_code": "RT_OTHER"}),
        ("reclassify", {"add_classes": ["major"]}),
    ):
        assert refusal(await review.post("supervisor", f"{path}/{verb}", body)) == (409, "review_not_free")
    assert refusal(await review.post("supervisor", f"{path}/release")) == (409, "review_not_yours")
    assert (await review.post("supervisor", "/v1/reviews:claim", {"count": 5})).json()["items"] == []

    await review.execute("UPDATE reviews SET claimed_until = clock_timestamp() - interval '1 s'")
    taken = (await review.post("supervisor", f"{path}/claim")).json()
    assert taken["claimed_by"] == "supervisor:test supervisor"
    assert refusal(await review.post("reviewer", f"{path}/approve", {})) == (409, "review_not_free")
    assert (await review.post("supervisor", f"{path}/release")).json()["claimed_by"] is None
    assert (await review.post("reviewer", f"{path}/approve", {})).json()["status"] == "approved"


async def test_two_reviewers_who_claim_at_once_never_get_the_same(review: Site) -> None:
    numbers = {await waiting(review) for _ in range(12)}
    async with review.client("reviewer") as one, review.client("supervisor") as other:
        answers = await asyncio.gather(
            *(client.post("/v1/reviews:claim", json={"count": 3}) for client in (one, other) for _ in range(3))
        )
        got = [item["ticket_no"] for answer in answers for item in answer.json()["items"]]
        assert len(got) == len(set(got)) == 12
        assert set(got) == numbers
        assert (await one.post("/v1/reviews:claim", json={"count": 1})).json()["items"] == []
        single = await waiting(review)
        answers = await asyncio.gather(
            *(client.post(f"/v1/reviews/{single}/claim") for client in (one, other) for _ in range(4))
        )
    winners = {answer.json()["claimed_by"] for answer in answers if answer.status_code == 200}
    assert len(winners) == 1
    assert {refusal(answer) for answer in answers if answer.status_code != 200} == {(409, "review_not_free")}


async def test_the_queue_goes_by_priority_then_urgency_then_age(review: Site) -> None:
    plain, urgent, later = await waiting(review), await waiting(review, "sensitive"), await waiting(review)
    number, ticket_id = await register(review, "media_risk")
    raised = EscalationRaised(ticket_no=number, escalation_id=new_id(), kind="overdue", reason="x", rung=2, basis=BASIS)
    await review.apply(event(raised, ticket_id, "sla"))
    wanted = [number, urgent, plain, later]
    page = (await review.get("reviewer", "/v1/reviews")).json()
    assert ([item["ticket_no"] for item in page["items"]], page["waiting"]) == (wanted, 4)
    assert [item["priority"] for item in page["items"]] == [2, 0, 0, 0]
    taken = [(await review.post("reviewer", "/v1/reviews:claim", {"count": 2})).json() for _ in range(2)]
    assert [item["ticket_no"] for page in taken for item in page["items"]] == wanted


DECISIONS: dict[str, tuple[Any, str, str]] = {
    "approve": ({"note": "可派"}, "approved", "review.approved"),
    "return": ({"reason_code": "RT_OTHER", "missing": ["location"]}, "returned", "review.returned"),
    "reclassify": ({"category": "network.coverage.outdoor"}, "waiting", "review.reclassified"),
}


@pytest.mark.parametrize("verb", list(DECISIONS))
async def test_a_decision_is_published_once_and_its_retry_gets_the_same_answer(review: Site, verb: str) -> None:
    body, status, published = DECISIONS[verb]
    number = await waiting(review)
    path = f"/v1/reviews/{number}/{verb}"
    answers = await asyncio.gather(*(review.post("reviewer", path, body, "once") for _ in range(5)))
    answers.append(await review.post("reviewer", path, body, "once"))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json()["status"] == status
    assert (await review.published(number)).count(published) == 1
    other = await waiting(review)
    for changed in (
        await review.post("reviewer", path, {**body, "note": "x"} if verb != "reclassify" else {}, "once"),
        await review.post("reviewer", f"/v1/reviews/{other}/{verb}", body, "once"),
    ):
        assert refusal(changed) == (422, "idempotency_key_reused")
    if verb != "reclassify":
        assert refusal(await review.post("reviewer", path, body)) == (409, "review_state")
    # The key belongs to its client.
    assert (await review.post("supervisor", f"/v1/reviews/{other}/{verb}", body, "once")).status_code == 200


async def test_a_refused_request_keeps_no_key(review: Site) -> None:
    number = await waiting(review)
    path = f"/v1/reviews/{number}/approve"
    await review.post("supervisor", f"/v1/reviews/{number}/claim")
    assert refusal(await review.post("reviewer", path, {}, "again")) == (409, "review_not_free")
    await review.post("supervisor", f"/v1/reviews/{number}/release")
    assert (await review.post("reviewer", path, {}, "again")).status_code == 200


@pytest.mark.parametrize(
    ("verb", "body", "code", "pointer"),
    [
        ("approve", {"branch": "atlantis"}, "unknown_branch", "/branch"),
        ("return", {"reason_code": "RT_NO_SUCH"}, "unknown_reason", "/reason_code"),
        ("return", {}, "invalid_request", "/reason_code"),
        ("reclassify", {"category": "nonsense"}, "unknown_value", "/category"),
        ("reclassify", {"add_classes": ["nonsense"]}, "unknown_value", "/add_classes"),
        ("merge", {"into": NOBODYS}, "merge_target_unknown", "/into"),
        ("merge", {}, "invalid_request", "/into"),
        ("approve", {"surprise": 1}, "invalid_request", "/surprise"),
        ("merge", {"into": "not-a-ticket"}, "merge_target_unknown", "/into"),
    ],
)
async def test_what_review_does_not_know_is_refused_by_field(
    review: Site, verb: str, body: Any, code: str, pointer: str
) -> None:
    number = await waiting(review)
    answer = await review.post("reviewer", f"/v1/reviews/{number}/{verb}", body)
    assert refusal(answer) == (422, code)
    assert pointers(answer) == [pointer]
    assert await review.published(number) == ["review.held"]
    assert refusal(await review.post("reviewer", f"/v1/reviews/{NOBODYS}/approve", {})) == (404, "review_not_found")


async def test_a_duplicate_is_merged_into_an_open_ticket_of_the_same_customer_only(review: Site) -> None:
    number = await waiting(review, customer="same")
    earlier, earlier_id = await register(review, customer="same")
    ended, ended_id = await register(review, customer="same")
    withdrawn = TicketWithdrawn(ticket_no=ended, reason="x", actor="a")
    await review.apply(event(withdrawn, ended_id, "intake"))
    stranger, _ = await register(review)
    path = f"/v1/reviews/{number}/merge"
    for into, code in (
        (number, "merge_into_itself"),
        (stranger, "merge_other_customer"),
        (ended, "merge_target_ended"),
    ):
        assert refusal(await review.post("reviewer", path, {"into": into})) == (409, code)
    merged = await review.post("reviewer", path, {"into": str(earlier_id), "note": "同一问题"})
    assert merged.json()["status"] == "merged"
    assert refusal(await review.post("reviewer", path, {"into": earlier})) == (409, "review_state")
    assert refusal(await review.post("reviewer", f"/v1/reviews/{number}/approve", {})) == (409, "review_state")


async def test_two_tickets_are_never_merged_into_each_other(review: Site) -> None:
    pairs = [(await waiting(review, customer=f"m{n}"), await waiting(review, customer=f"m{n}")) for n in range(8)]
    for one, other in pairs:
        answers = await asyncio.gather(
            review.post("reviewer", f"/v1/reviews/{one}/merge", {"into": other}),
            review.post("supervisor", f"/v1/reviews/{other}/merge", {"into": one}),
        )
        assert sorted(answer.status_code for answer in answers) == [200, 409]


async def test_only_reviewers_and_supervisors_decide(review: Site) -> None:
    number = await waiting(review)
    for role in ("front_line", "jinan", "callback", "ops"):
        for path in (f"/v1/reviews/{number}/claim", f"/v1/reviews/{number}/approve", "/v1/reviews:claim"):
            assert refusal(await review.post(role, path, {})) == (403, "role_not_allowed")
    for role in ("front_line", "jinan", "callback"):
        assert refusal(await review.get(role, f"/v1/reviews/{number}")) == (403, "role_not_allowed")
    assert (await review.get("ops", f"/v1/reviews/{number}")).json()["ticket_no"] == number


async def test_a_major_complaint_gets_the_supervisors_opinion_once(review: Site) -> None:
    number, _ = await register(review, "major")
    (asked,) = (await review.get("reviewer", "/v1/approvals")).json()["items"]
    assert (asked["ticket_no"], asked["requested_by"]) == (number, "rules")
    assert refusal(await review.post("reviewer", f"/v1/reviews/{number}/opinion")) == (409, "opinion_pending")
    path = f"/v1/approvals/{asked['approval_id']}/decide"
    body = {"granted": True, "opinion": "同意,请联系 13912345678"}
    assert refusal(await review.post("reviewer", path, body)) == (403, "role_not_allowed")
    assert pointers(await review.post("supervisor", path, {"granted": True})) == ["/opinion"]
    answers = [await review.post("supervisor", path, body, "opinion") for _ in range(2)]
    assert {answer.status_code for answer in answers} == {200}
    assert answers[0].content == answers[1].content
    decided = answers[0].json()
    assert (decided["status"], decided["decided_by"]) == ("granted", "supervisor:test supervisor")
    assert "13912345678" not in decided["opinion"]
    assert refusal(await review.post("supervisor", path, body)) == (409, "approval_decided")
    unknown = f"/v1/approvals/{new_id()}/decide"
    assert refusal(await review.post("supervisor", unknown, body)) == (404, "approval_not_found")
    assert (await review.get("reviewer", "/v1/approvals")).json()["items"] == []

    # A second opinion may be asked for, and refused.
    assert (await review.post("reviewer", f"/v1/reviews/{number}/opinion")).status_code == 200
    (second,) = (await review.get("supervisor", "/v1/approvals")).json()["items"]
    refused = await review.post(
        "supervisor", f"/v1/approvals/{second['approval_id']}/decide", {"granted": False, "opinion": "请补充"}
    )
    assert refused.json()["status"] == "refused"
    types = [each for each in await review.published(number) if each.startswith("approval.")]
    assert types == ["approval.requested", "approval.granted", "approval.requested", "approval.refused"]


async def test_a_complaint_that_becomes_major_asks_for_an_opinion_at_once(review: Site) -> None:
    number = await waiting(review)
    path = f"/v1/reviews/{number}/reclassify"
    assert (await review.post("reviewer", path, {"add_classes": ["major"]})).status_code == 200
    assert [item["ticket_no"] for item in (await review.get("ops", "/v1/approvals")).json()["items"]] == [number]


async def test_a_complaint_that_becomes_major_twice_waits_for_one_opinion(review: Site) -> None:
    number = await waiting(review)
    path = f"/v1/reviews/{number}/reclassify"
    bodies = [{"add_classes": ["major"]}, {"remove_classes": ["major"]}, {"add_classes": ["major"]}]
    answers = [await review.post("reviewer", path, body) for body in bodies]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert len((await review.get("ops", "/v1/approvals")).json()["items"]) == 1


# ---- dispatch --------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module")
async def dispatch(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    url = await databases.fresh("dispatch")
    days = {day: worked for day, worked, _ in package_days(2025, 2026)}
    calendar = WorkingCalendar(days, PACK.working_hours, PACK.tz, max(days))
    async with running_app(build_dispatch, DispatchSettings, url, tmp_path_factory.mktemp("dispatch")) as app:
        desk = dispatch_usecases.Desk(PACK, calendar, app.service.clock, "http://intake", "http://dispatch")
        yield Site(app, DispatchProjection(desk), "work_orders")


async def order(site: Site, **changes: Any) -> tuple[str, UUID]:
    """An approved ticket that the rules sent to Jinan."""
    number, ticket_id = f"T20261122-{next(_numbers):07d}", new_id()
    ticket = snapshot(ticket_no=number, **changes)
    data = ReviewApproved(ticket=ticket, round=1, automatic=True, basis=BASIS, actor="rules")
    await site.apply(event(data, ticket_id, "review"))
    return number, ticket_id


def reply_body(satisfaction: str = "not_called") -> dict[str, Any]:
    """The five elements of GDM-T8."""
    return {
        "process": "已上门检测并调整天线",
        "content": "信号已恢复正常",
        "satisfaction": satisfaction,
        "replier": "王工",
        "replied_at": datetime.now(UTC).isoformat(),
    }


OF_BRANCHES: dict[str, Any] = {
    "accept": None,
    "progress": {"note": "已联系"},
    "reply": reply_body(),
    "return": {"reason_code": "RT_OTHER"},
    "transfer": {"to_branch": "qingdao", "reason": "外地"},
    "raise": {"reason": "超出权限"},
}
OF_STAFF: dict[str, Any] = {
    "urge": {"reason": "客户催办"},
    "callback": {"outcome": "satisfied"},
    "close": {"outcome": "satisfied"},
    "reopen": {"reason": "仍未解决"},
}


async def do(site: Site, role: str, number: str, verb: str, body: Any = None, key: str | None = None) -> httpx.Response:
    given = body if body is not None else OF_BRANCHES.get(verb, OF_STAFF.get(verb))
    return await site.post(role, f"/v1/orders/{number}/{verb}", given, key)


async def state(site: Site, number: str) -> dict[str, Any]:
    view: dict[str, Any] = (await site.get("supervisor", f"/v1/orders/{number}")).json()
    return view


async def test_every_route_on_an_order_is_in_these_tests(dispatch: Site) -> None:
    async with dispatch.client(None) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
    verbs = {path.rpartition("/")[2] for path in paths if path.startswith("/v1/orders/{reference}/")}
    assert verbs == {*OF_BRANCHES, *OF_STAFF}


@pytest.mark.parametrize("by", ["number", "id"])
async def test_to_another_branch_an_order_does_not_exist(dispatch: Site, by: str) -> None:
    number, ticket_id = await order(dispatch)
    ours, nobodys = (number, NOBODYS) if by == "number" else (str(ticket_id), str(new_id()))
    before = await state(dispatch, number)
    hidden = await dispatch.get("qingdao", f"/v1/orders/{ours}")
    unknown = await dispatch.get("qingdao", f"/v1/orders/{nobodys}")
    assert refusal(hidden) == (404, "order_not_found")
    assert hidden.json() | {"trace_id": 0} == unknown.json() | {"trace_id": 0}
    for verb in OF_BRANCHES:
        hidden, unknown = await do(dispatch, "qingdao", ours, verb), await do(dispatch, "qingdao", nobodys, verb)
        assert refusal(hidden) == (404, "order_not_found"), verb
        assert hidden.json() | {"trace_id": 0} == unknown.json() | {"trace_id": 0}
    for verb in OF_STAFF:
        for branch in ("jinan", "qingdao"):
            assert refusal(await do(dispatch, branch, ours, verb)) == (403, "role_not_allowed"), verb
    for query in ("", "?branch=jinan"):
        listed = (await dispatch.get("qingdao", f"/v1/orders{query}")).json()["items"]
        assert number not in [item["ticket_no"] for item in listed]
    assert await state(dispatch, number) == before
    assert (await dispatch.get("jinan", f"/v1/orders/{ours}")).status_code == 200


async def test_an_order_goes_through_accept_progress_reply_callback_and_closing(dispatch: Site) -> None:
    number, _ = await order(dispatch)
    assert (await do(dispatch, "jinan", number, "accept")).json()["status"] == "accepted"
    assert refusal(await do(dispatch, "jinan", number, "accept")) == (409, "order_state")
    assert (await do(dispatch, "jinan", number, "progress")).json()["status"] == "accepted"
    assert refusal(await do(dispatch, "callback", number, "callback")) == (409, "order_state")
    assert (await do(dispatch, "jinan", number, "reply")).json()["status"] == "replied"
    queue = (await dispatch.get("callback", "/v1/callbacks?limit=200")).json()
    assert number in [item["ticket_no"] for item in queue["items"]]
    ended = (await do(dispatch, "callback", number, "callback")).json()
    assert (ended["status"], ended["outcome"]) == ("closed", "satisfied")
    assert ended["closed_at"] is not None
    assert await dispatch.published(number) == [
        "order.dispatched",
        "order.accepted",
        "order.progressed",
        "order.replied",
        "callback.recorded",
        "ticket.closed",
    ]
    for verb in (*OF_BRANCHES, "urge", "callback", "close"):
        assert refusal(await do(dispatch, "supervisor", number, verb)) == (409, "order_state"), verb


async def test_an_order_is_given_back_with_a_reason_of_branches_only(dispatch: Site) -> None:
    number, _ = await order(dispatch)
    wrong = await do(dispatch, "jinan", number, "return", {"reason_code": "RT_DUPLICATE"})
    assert refusal(wrong) == (422, "unknown_reason")
    assert pointers(wrong) == ["/reason_code"]
    back = await do(dispatch, "jinan", number, "return", {"reason_code": "RT_SERIAL_MISMATCH", "note": "流水号不符"})
    assert back.json()["status"] == "returned"
    assert refusal(await do(dispatch, "jinan", number, "return")) == (409, "order_state")


async def test_a_transferred_order_is_with_the_other_branch_at_once(dispatch: Site) -> None:
    number, _ = await order(dispatch)
    for to, code in (("atlantis", "unknown_branch"), ("jinan", "same_branch")):
        wrong = await do(dispatch, "jinan", number, "transfer", {"to_branch": to, "reason": "x"})
        assert refusal(wrong) == (422, code)
        assert pointers(wrong) == ["/to_branch"]
    moved = (await do(dispatch, "jinan", number, "transfer")).json()
    assert (moved["status"], moved["branch"], moved["round"]) == ("dispatched", "qingdao", 2)
    assert refusal(await do(dispatch, "jinan", number, "accept")) == (404, "order_not_found")
    assert refusal(await dispatch.get("jinan", f"/v1/orders/{number}")) == (404, "order_not_found")
    assert (await do(dispatch, "qingdao", number, "accept")).json()["status"] == "accepted"


async def test_a_raised_order_is_answered_by_the_province(dispatch: Site) -> None:
    number, _ = await order(dispatch)
    raised = (await do(dispatch, "jinan", number, "raise")).json()
    assert raised["status"] == "raised"
    assert "raised" in [mark["code"] for mark in raised["ticket"]["classes"]]
    for verb in OF_BRANCHES:
        assert refusal(await do(dispatch, "jinan", number, verb)) == (409, "order_raised"), verb
    assert (await do(dispatch, "supervisor", number, "reply")).json()["status"] == "replied"
    wrong = await do(dispatch, "supervisor", (await order(dispatch))[0], "raise", {"to": "the moon", "reason": "x"})
    assert refusal(wrong) == (422, "invalid_request")
    assert pointers(wrong) == ["/to"]


async def test_an_order_in_hand_is_urged(dispatch: Site) -> None:
    number, _ = await order(dispatch)
    for role in ("front_line", "reviewer", "callback", "supervisor"):
        assert (await do(dispatch, role, number, "urge")).json()["status"] == "dispatched"
    assert (await dispatch.published(number)).count("order.urged") == 4
    assert refusal(await do(dispatch, "ops", number, "urge")) == (403, "role_not_allowed")
    await do(dispatch, "jinan", number, "reply")
    assert refusal(await do(dispatch, "front_line", number, "urge")) == (409, "order_state")
    assert refusal(await do(dispatch, "front_line", NOBODYS, "urge")) == (404, "order_not_found")


async def test_callbacks_are_tried_three_times_and_the_true_outcome_is_kept(dispatch: Site) -> None:
    number, _ = await order(dispatch)
    await do(dispatch, "jinan", number, "reply")
    seen = []
    for _ in range(3):
        tried = (await do(dispatch, "callback", number, "callback", {"outcome": "not_reached"})).json()
        seen.append((tried["status"], tried["attempts"], tried["outcome"]))
    assert seen == [("replied", 1, None), ("replied", 2, None), ("closed", 3, "not_reached")]
    wrong = await do(dispatch, "callback", number, "callback", {"outcome": "delighted"})
    assert (refusal(wrong), pointers(wrong)) == ((422, "invalid_request"), ["/outcome"])


async def test_an_unsatisfied_customer_is_sent_out_again_once_then_a_person_decides(dispatch: Site) -> None:
    number, _ = await order(dispatch)
    rounds = []
    for _ in range(2):
        await do(dispatch, "jinan", number, "reply")
        view = (await do(dispatch, "callback", number, "callback", {"outcome": "unsatisfied"})).json()
        rounds.append((view["status"], view["round"], view["needs_person"]))
    assert rounds == [("dispatched", 2, False), ("replied", 2, True)]
    assert (await do(dispatch, "supervisor", number, "reopen")).json()["round"] == 3


async def test_an_order_is_closed_from_where_it_may_be_and_reopened(dispatch: Site) -> None:
    number, _ = await order(dispatch)
    for verb in ("close", "reopen"):
        assert refusal(await do(dispatch, "supervisor", number, verb)) == (409, "order_state")
    await do(dispatch, "jinan", number, "raise")
    ended = (await do(dispatch, "supervisor", number, "close", {"outcome": "not_called", "note": "已办结"})).json()
    assert (ended["status"], ended["outcome"]) == ("closed", "not_called")
    again = (await do(dispatch, "callback", number, "reopen")).json()
    assert (again["status"], again["branch"], again["round"], again["outcome"]) == ("dispatched", "jinan", 2, None)
    assert again["closed_at"] is None
    for verb in ("callback", "close", "reopen"):
        for role in ("front_line", "reviewer", "ops"):
            assert refusal(await do(dispatch, role, number, verb)) == (403, "role_not_allowed")


@pytest.mark.parametrize("element", list(reply_body()))
async def test_a_reply_that_lacks_an_element_names_it_and_changes_nothing(dispatch: Site, element: str) -> None:
    number, _ = await order(dispatch)
    before = await state(dispatch, number)
    for wrong in (None, "", "   "):
        body = reply_body() | {element: wrong}
        if wrong is None:
            del body[element]
        answer = await do(dispatch, "jinan", number, "reply", body)
        assert refusal(answer) == (422, "invalid_request")
        assert pointers(answer) == [f"/{element}"]
    assert await state(dispatch, number) == before
    assert await dispatch.published(number) == ["order.dispatched"]


@pytest.mark.parametrize("verb", [*OF_BRANCHES, "urge"])
async def test_the_retry_of_a_verb_gets_the_same_answer(dispatch: Site, verb: str) -> None:
    number, _ = await order(dispatch)
    role = "supervisor" if verb == "urge" else "jinan"
    key = f"{number}-{verb}"
    answers = await asyncio.gather(*(do(dispatch, role, number, verb, key=key) for _ in range(5)))
    answers.append(await do(dispatch, role, number, verb, key=key))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    published = await dispatch.published(number)
    assert len(published) == (3 if verb == "transfer" else 2)
    other, _ = await order(dispatch)
    assert refusal(await do(dispatch, role, other, verb, key=key)) == (422, "idempotency_key_reused")


@pytest.mark.parametrize("verb", ["callback", "close", "reopen"])
async def test_the_retry_of_a_closing_verb_gets_the_same_answer(dispatch: Site, verb: str) -> None:
    number, _ = await order(dispatch)
    await do(dispatch, "jinan", number, "reply")
    key = f"{number}-{verb}"
    answers = await asyncio.gather(*(do(dispatch, "supervisor", number, verb, key=key) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    other = await do(
        dispatch, "supervisor", number, verb, OF_STAFF[verb] | {"reason" if verb == "reopen" else "note": "y"}, key
    )
    assert refusal(other) == (422, "idempotency_key_reused")


async def test_replies_at_once_are_taken_once(dispatch: Site) -> None:
    number, _ = await order(dispatch)
    answers = await asyncio.gather(*(do(dispatch, "jinan", number, "reply") for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    assert (await dispatch.published(number)).count("order.replied") == 1
