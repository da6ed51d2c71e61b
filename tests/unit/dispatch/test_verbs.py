"""Every verb in every state of a work order: the legal moves happen, the others are refused and change nothing."""

import copy
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pytest

from services.dispatch import usecases
from services.dispatch.domain import verbs
from services.dispatch.domain.order import OrderStatus, WorkOrder
from services.dispatch.schemas import CallbackResult, Close, Progress, Raise, Reopen, ReplyIn, Return, Transfer, Urge
from services.dispatch.usecases import Desk
from shared.calendar import WorkingCalendar
from shared.clock import Clock
from shared.contracts.dispatch import Satisfaction
from shared.errors import Conflict, Invalid
from shared.ids import new_id
from tests.support.snapshots import NOW, PACK, snapshot

CALENDAR = WorkingCalendar({}, PACK.working_hours, PACK.tz, date(2026, 12, 31))
DESK = Desk(PACK, CALENDAR, Clock(), "http://intake", "http://dispatch")
WHO = "branch:jinan"


def reply_in(satisfaction: Satisfaction = "not_called", **changes: Any) -> ReplyIn:
    values: dict[str, Any] = {
        "process": "上门检测",
        "content": "已恢复",
        "satisfaction": satisfaction,
        "replier": "王工",
        "replied_at": NOW,
    }
    return ReplyIn(**(values | changes))


VERBS: dict[str, Callable[[WorkOrder], None]] = {
    "accept": lambda o: usecases.accept(DESK, o, WHO, NOW),
    "progress": lambda o: usecases.progress(DESK, o, Progress(note="已联系"), WHO, NOW),
    "reply": lambda o: usecases.reply(DESK, o, reply_in(), WHO, NOW),
    "return": lambda o: usecases.give_back(DESK, o, Return(reason_code="RT_NOT_OURS"), WHO, NOW),
    "transfer": lambda o: usecases.transfer(DESK, o, Transfer(to_branch="qingdao", reason="外地"), WHO, NOW),
    "raise": lambda o: usecases.raise_up(DESK, o, Raise(reason="超出权限"), WHO, NOW),
    "urge": lambda o: usecases.urge(DESK, o, Urge(reason="客户催办"), WHO, NOW),
    "callback": lambda o: usecases.record_callback(DESK, o, CallbackResult(outcome="satisfied"), WHO, NOW),
    "close": lambda o: usecases.close(DESK, o, Close(outcome="satisfied"), WHO, NOW),
    "reopen": lambda o: usecases.reopen(DESK, o, Reopen(reason="仍未解决"), WHO, NOW),
}
S = OrderStatus
MOVES: dict[tuple[str, OrderStatus], OrderStatus] = {
    ("accept", S.dispatched): S.accepted,
    ("progress", S.dispatched): S.dispatched,
    ("progress", S.accepted): S.accepted,
    ("progress", S.raised): S.raised,
    ("reply", S.dispatched): S.replied,
    ("reply", S.accepted): S.replied,
    ("reply", S.raised): S.replied,
    ("return", S.dispatched): S.returned,
    ("return", S.accepted): S.returned,
    ("transfer", S.dispatched): S.dispatched,
    ("transfer", S.accepted): S.dispatched,
    ("raise", S.dispatched): S.raised,
    ("raise", S.accepted): S.raised,
    ("urge", S.dispatched): S.dispatched,
    ("urge", S.accepted): S.accepted,
    ("urge", S.raised): S.raised,
    ("callback", S.replied): S.closed,
    ("close", S.replied): S.closed,
    ("close", S.raised): S.closed,
    ("close", S.returned): S.closed,
    ("reopen", S.replied): S.dispatched,
    ("reopen", S.closed): S.dispatched,
}


def order_in(status: OrderStatus) -> WorkOrder:
    """An order that went the ordinary way and now stands in this state."""
    order = WorkOrder(ticket_id=new_id(), ticket_no="T20261123-0000001", is_new=True)
    usecases.dispatch_approved(
        DESK, order, snapshot(category="service.hall", place=None, elements={}), None, "rules", NOW
    )
    order.pending.clear()
    order.status = status
    return order


@pytest.mark.parametrize("status", list(OrderStatus))
@pytest.mark.parametrize("verb", list(VERBS))
def test_each_verb_in_each_state(verb: str, status: OrderStatus) -> None:
    order = order_in(status)
    before = copy.deepcopy((order.version, order.branch_version, order.status, order.branch, order.round))
    if (verb, status) in MOVES:
        VERBS[verb](order)
        assert order.status is MOVES[verb, status]
        assert order.version > before[0]
        assert order.pending
    else:
        with pytest.raises(Conflict):
            VERBS[verb](order)
        assert (order.version, order.branch_version, order.status, order.branch, order.round) == before
        assert not order.pending


def test_the_branch_is_told_with_a_sequence_of_its_own() -> None:
    order = order_in(S.dispatched)
    usecases.urge(DESK, order, Urge(reason="客户催办"), WHO, NOW)
    topics = [(item.topic, item.version) for item in order.pending]
    assert topics == [(None, 2), ("gongdan.dispatch.jinan", 2)]


def test_a_reply_without_one_of_its_elements_is_refused() -> None:
    for element in ("process", "content", "replier", "satisfaction", "replied_at"):
        values = reply_in().model_dump()
        del values[element]
        with pytest.raises(ValueError, match=element):
            ReplyIn(**values)


def test_a_satisfied_reply_needs_no_callback() -> None:
    order = WorkOrder(ticket_id=new_id(), ticket_no="T1", is_new=True)
    usecases.dispatch_approved(DESK, order, snapshot(), None, "rules", NOW)
    usecases.reply(DESK, order, reply_in("satisfied"), WHO, NOW)
    assert order.status is S.closed
    assert order.outcome == "satisfied"


def test_an_unsatisfied_customer_gets_the_order_sent_out_again() -> None:
    order = order_in(S.replied)
    usecases.record_callback(DESK, order, CallbackResult(outcome="unsatisfied"), "callback:x", NOW)
    assert (order.status, order.round, order.reopened) == (S.dispatched, 2, 1)
    assert [item.event.TYPE for item in order.pending if item.topic is None] == [  # type: ignore[attr-defined]
        "callback.recorded",
        "ticket.reopened",
        "order.dispatched",
    ]


def test_the_true_outcome_is_stored_as_given() -> None:
    order = order_in(S.replied)
    usecases.close(DESK, order, Close(outcome="unsatisfied"), "supervisor:x", NOW)
    closed = order.pending[-1].event
    assert order.outcome == "unsatisfied"
    assert (closed.outcome, closed.reported_outcome) == ("unsatisfied", None)  # type: ignore[attr-defined]


def test_a_fault_city_with_a_normal_network_passes_the_card_home() -> None:
    """RTE-07, RTE-10: first the fault city verifies, then the number's home city answers."""
    order = WorkOrder(ticket_id=new_id(), ticket_no="T1", is_new=True)
    ticket = snapshot(
        category="network.data_card.unusable",
        customer={"home_city": "jinan"},
        place={"city": "dongying"},
        flags=("unusable_at_place",),
    )
    usecases.dispatch_approved(DESK, order, ticket, None, "rules", NOW)
    assert order.branch == "dongying"
    usecases.reply(DESK, order, reply_in(network="normal"), "branch:dongying", NOW)
    assert (order.branch, order.status, order.round) == ("jinan", S.dispatched, 2)


def test_a_fault_city_that_gives_it_back_keeps_it_by_rule_once() -> None:
    """RTE-18, AC-04; the second time a person decides."""
    order = WorkOrder(ticket_id=new_id(), ticket_no="T1", is_new=True)
    ticket = snapshot(category="network.data_card.unusable", place={"city": "dongying"}, flags=("unusable_at_place",))
    usecases.dispatch_approved(DESK, order, ticket, None, "rules", NOW)
    usecases.give_back(DESK, order, Return(reason_code="RT_NOT_OURS"), "branch:dongying", NOW)
    assert (order.branch, order.status, order.round) == ("dongying", S.dispatched, 2)
    assert "RTE-18" in order.route_rules
    usecases.give_back(DESK, order, Return(reason_code="RT_NOT_OURS"), "branch:dongying", NOW)
    assert order.status is S.returned


def test_raising_out_of_the_province_changes_the_limit() -> None:
    """GDM-L10, 8.3 no. 18."""
    order = order_in(S.accepted)
    before = DESK.paper(order.snapshot).limits
    usecases.raise_up(DESK, order, Raise(to="other_province", reason="漫游地处理"), WHO, NOW)
    after = DESK.paper(order.snapshot).limits
    due = {limit.kind: limit.due_at for limit in after}
    assert due["resolution"] == NOW + timedelta(hours=120)
    assert {limit.kind: limit.due_at for limit in before}["resolution"] == NOW + timedelta(hours=96)


@pytest.mark.parametrize(
    ("call", "pointer"),
    [
        (lambda o: usecases.give_back(DESK, o, Return(reason_code="RT_NOT_TO_SUBMIT"), WHO, NOW), "/reason_code"),
        (lambda o: usecases.transfer(DESK, o, Transfer(to_branch="atlantis", reason="x"), WHO, NOW), "/to_branch"),
        (lambda o: usecases.transfer(DESK, o, Transfer(to_branch="jinan", reason="x"), WHO, NOW), "/to_branch"),
        (lambda o: usecases.progress(DESK, o, Progress(note="x", marks=["nonsense"]), WHO, NOW), "/marks"),
        (
            lambda o: usecases.progress(DESK, o, Progress(note="x", contacted_at=NOW + timedelta(hours=1)), WHO, NOW),
            "/contacted_at",
        ),
        (
            lambda o: usecases.progress(DESK, o, Progress(note="x", contacted_at=NOW - timedelta(hours=1)), WHO, NOW),
            "/contacted_at",
        ),
    ],
)
def test_what_the_pack_does_not_know_is_refused(call: Callable[[WorkOrder], None], pointer: str) -> None:
    order = order_in(S.accepted)
    with pytest.raises(Invalid) as refusal:
        call(order)
    assert refusal.value.pointer == pointer
    assert not order.pending


def test_a_ticket_that_was_withdrawn_as_it_was_closed_cannot_be_reopened() -> None:
    order = order_in(S.closed)
    verbs.end(order, "ticket.withdrawn", "front_line:x", NOW)
    assert not order.pending
    with pytest.raises(Conflict):
        usecases.reopen(DESK, order, Reopen(reason="x"), WHO, NOW)


def test_an_ended_ticket_is_recalled_from_its_branch_once() -> None:
    order = order_in(S.accepted)
    verbs.end(order, "ticket.withdrawn", "front_line:x", NOW)
    verbs.end(order, "ticket.withdrawn", "front_line:x", NOW)
    recalled = [item.event.TYPE for item in order.pending]  # type: ignore[attr-defined]
    assert recalled == ["order.recalled", "order.recalled"]
    assert order.pending[1].topic == "gongdan.dispatch.jinan"
