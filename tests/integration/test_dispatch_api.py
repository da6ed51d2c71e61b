"""dispatch over HTTP on a real database, with rows made by its own projection."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import text

from shared import failpoints
from shared.errors import Transient
from shared.ids import new_id
from shared.messaging import outbox
from tests.support.parts import Databases
from tests.support.sites import NOBODYS, Site, dispatch_site, order, pointers, refusal


@pytest_asyncio.fixture(scope="module")
async def dispatch(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with dispatch_site(await databases.fresh("dispatch"), tmp_path_factory.mktemp("dispatch")) as site:
        yield site


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


async def test_on_a_new_log_branches_are_told_of_open_orders_again_also_after_a_break(
    dispatch: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In short transactions: one over all orders would hold the outbox for minutes, and meet its time limit."""
    monkeypatch.setattr(outbox, "CHUNK_IDS", 3)
    still_open = [(await order(dispatch))[1] for _ in range(6)]
    over, over_id = await order(dispatch)
    await do(dispatch, "jinan", over, "reply")
    await do(dispatch, "supervisor", over, "close")
    await dispatch.execute("UPDATE outbox SET published_at = now()")
    database, chunks = dispatch.app.service.database, []

    def breaks_off() -> None:
        chunks.append("a chunk")
        if len(chunks) == 2:
            raise Transient("the connection is gone")

    monkeypatch.setitem(failpoints._armed, "replay.written", breaks_off)
    with pytest.raises(Transient):
        await dispatch.projection.on_new_log(database, lambda: None)
    alive: list[str] = []
    await dispatch.projection.on_new_log(database, lambda: alive.append("alive"))
    assert len(alive) > 5
    async with database.transaction() as transaction:
        rows = await transaction.connection.execute(
            text("SELECT subject, topic FROM outbox WHERE published_at IS NULL")
        )
        told = {(row.subject, row.topic) for row in rows}
    assert {topic.startswith("gongdan.dispatch.") for _, topic in told} == {True}
    assert {subject for subject, _ in told} >= set(still_open)
    assert over_id not in {subject for subject, _ in told}
    assert (await database.read(lambda connection: outbox.backlog(connection, 1000))).waiting == 0
