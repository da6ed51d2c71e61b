"""review over HTTP on a real database, with rows made by its own projection."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from services.review import usecases as review_usecases
from services.review.app import build as build_review
from services.review.consumers import ReviewProjection
from services.review.settings import Settings as ReviewSettings
from shared.contracts.intake import TicketRegistered, TicketWithdrawn
from shared.contracts.sla import EscalationRaised
from shared.ids import new_id
from tests.support.apps import running_app
from tests.support.parts import Databases
from tests.support.sites import BASIS, NOBODYS, Site, event, pointers, refusal, ticket_number
from tests.support.snapshots import PACK, snapshot


@pytest_asyncio.fixture
async def review(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    url = await databases.fresh("review")
    async with running_app(build_review, ReviewSettings, url, tmp_path_factory.mktemp("review")) as app:
        yield Site(app, ReviewProjection(review_usecases.Desk(PACK, app.service.clock, 900)), "reviews")


async def register(site: Site, *flags: str, customer: str | None = None, **changes: Any) -> tuple[str, UUID]:
    """A ticket that review knows. With the flag `media_risk` it waits for a person."""
    number, ticket_id = ticket_number(), new_id()
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
