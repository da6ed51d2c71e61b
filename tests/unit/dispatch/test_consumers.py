"""Events of different publishers come in any order; the end is the same, or the early one waits."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from services.dispatch.consumers import DispatchProjection, Orders
from services.dispatch.domain.order import OrderStatus
from shared.contracts.branch import AcceptOrder, ReplyOrder
from shared.contracts.dispatch import Reply
from shared.contracts.envelope import Envelope
from shared.contracts.intake import TicketAnswered, TicketWithdrawn
from shared.contracts.review import ReviewApproved, ReviewMerged
from shared.contracts.signature import SIGNATURE, branch_key, signature
from shared.contracts.sla import EscalationRaised
from shared.contracts.ticket import Basis, ClassMark, TicketRef
from shared.errors import Conflict, DomainError, Forbidden, NotYet
from shared.ids import new_id
from shared.messaging.events import Event, Record
from tests.support.snapshots import NOW, PACK, snapshot
from tests.unit.dispatch.test_verbs import DESK

BASIS = Basis(pack=PACK.id, version=PACK.version)
TICKET = new_id()
NO = "T20261123-0000001"
MASTERS = (bytes(range(32)), bytes(32))


def event(data: Any, publisher: str, subject: UUID = TICKET) -> Event:
    envelope = Envelope(new_id(), f"/gongdan/{publisher}", data.TYPE, subject, NOW, 1)
    return Event(envelope, data, Record(data.TOPIC, 0, 0, None, (), b""))


def approved() -> Event:
    data = ReviewApproved(ticket=snapshot(), round=1, automatic=True, basis=BASIS, actor="rules")
    return event(data, "review")


def escalated(kind: str = "repeat") -> Event:
    marks = (ClassMark(code="repeat", rule="GDM-D7"),) if kind == "repeat" else ()
    data = EscalationRaised(
        ticket_no=NO,
        escalation_id=new_id(),
        kind=kind,
        reason="again",
        adds=marks,
        basis=BASIS,
    )
    return event(data, "sla")


ENDINGS: dict[str, Callable[[], Event]] = {
    "withdrawn": lambda: event(TicketWithdrawn(ticket_no=NO, reason="x", actor="a"), "intake"),
    "answered": lambda: event(TicketAnswered(ticket_no=NO, answer="x", basis=BASIS, actor="a"), "intake"),
    "merged": lambda: event(
        ReviewMerged(ticket_no=NO, into=TicketRef(ticket_id=new_id(), ticket_no="T2"), basis=BASIS, actor="a"), "review"
    ),
}


def play(*events: Event) -> Orders:
    projection, state = DispatchProjection(DESK), Orders(NOW, {})
    for each in events:
        projection.apply(state, each)
    return state


def told(state: Orders) -> list[tuple[str, int]]:
    """What the branch's topic would carry."""
    pending = state.touched[TICKET].pending
    return [(item.event.TYPE, item.version) for item in pending if item.topic is not None]  # type: ignore[attr-defined]


@pytest.mark.parametrize("ending", list(ENDINGS))
def test_a_ticket_that_ended_first_is_never_dispatched(ending: str) -> None:
    state = play(ENDINGS[ending](), approved())
    assert state.by_ticket[TICKET].status is OrderStatus.ended
    assert told(state) == []


@pytest.mark.parametrize("ending", list(ENDINGS))
def test_a_ticket_that_ended_after_its_dispatch_is_recalled(ending: str) -> None:
    state = play(approved(), ENDINGS[ending]())
    assert state.by_ticket[TICKET].status is OrderStatus.ended
    assert told(state) == [("order.dispatched", 1), ("order.recalled", 2)]


def test_an_escalation_before_the_order_waits_and_then_counts() -> None:
    with pytest.raises(NotYet):
        play(escalated())
    state = play(approved(), escalated())
    assert told(state) == [("order.dispatched", 1), ("order.escalated", 2)]
    escalation = state.touched[TICKET].pending[-1].event
    assert "repeat" in [mark.code for mark in escalation.classes]  # type: ignore[attr-defined]
    assert escalation.urgency.code == "urgent"  # type: ignore[attr-defined]


def test_an_escalation_after_the_end_changes_nothing() -> None:
    state = play(approved(), ENDINGS["withdrawn"]())
    before = len(state.touched[TICKET].pending)
    DispatchProjection(DESK).apply(state, escalated())
    assert len(state.touched[TICKET].pending) == before


def test_a_silent_branch_is_urged() -> None:
    assert told(play(approved(), escalated("silent_branch")))[-1] == ("order.urged", 2)


def test_approval_twice_dispatches_once() -> None:
    assert told(play(approved(), approved())) == [("order.dispatched", 1)]


def signed(branch: str, key: bytes | None) -> Event:
    """A command for Jinan's order in the name of a branch, signed with a key."""
    accept = AcceptOrder(branch=branch, actor="x")
    envelope = Envelope(new_id(), f"/gongdan/branch/{branch}", accept.TYPE, TICKET, NOW)
    headers, value = envelope.headers(), accept.model_dump_json().encode()
    if key is not None:
        headers.append((SIGNATURE, signature(key, dict(headers), value)))
    return Event(envelope, accept, Record(accept.TOPIC, 0, 0, None, tuple(headers), value))


@pytest.mark.parametrize("master", MASTERS)
def test_a_command_signed_under_the_new_or_the_old_key_is_obeyed(master: bytes) -> None:
    state = play(approved())
    DispatchProjection(DESK, MASTERS).apply(state, signed("jinan", branch_key(master, "jinan")))
    assert state.touched[TICKET].status is OrderStatus.accepted


@pytest.mark.parametrize(
    ("key", "code"),
    [(None, "not_signed"), (branch_key(MASTERS[0], "qingdao"), "wrong_signature"), (MASTERS[0], "wrong_signature")],
)
def test_a_command_that_its_branch_did_not_sign_changes_nothing(key: bytes | None, code: str) -> None:
    state = play(approved())
    with pytest.raises(Forbidden) as refusal:
        DispatchProjection(DESK, MASTERS).apply(state, signed("jinan", key))
    assert refusal.value.code == code
    assert state.by_ticket[TICKET].status is OrderStatus.dispatched


def test_a_stranger_without_a_signature_does_not_learn_whose_the_order_is() -> None:
    for state in (play(approved()), play()):
        with pytest.raises(Forbidden) as refusal:
            DispatchProjection(DESK, MASTERS).apply(state, signed("qingdao", None))
        assert refusal.value.code == "not_signed"


def test_without_reply_keys_no_signature_is_asked_for() -> None:
    state = play(approved())
    DispatchProjection(DESK).apply(state, signed("jinan", None))
    assert state.touched[TICKET].status is OrderStatus.accepted


def test_only_the_branch_that_holds_the_order_may_command_it() -> None:
    state = play(approved())
    stranger = event(AcceptOrder(branch="qingdao", actor="x"), "branch/qingdao")
    forged = event(AcceptOrder(branch="jinan", actor="x"), "branch/qingdao")
    for command in (stranger, forged):
        with pytest.raises(DomainError) as refusal:
            DispatchProjection(DESK).apply(state, command)
        assert refusal.value.code == "not_your_order"
    DispatchProjection(DESK).apply(state, event(AcceptOrder(branch="jinan", actor="x"), "branch/jinan"))
    assert state.by_ticket[TICKET].status is OrderStatus.accepted
    with pytest.raises(Conflict):
        DispatchProjection(DESK).apply(state, event(AcceptOrder(branch="jinan", actor="x"), "branch/jinan"))


def test_a_reply_by_command_is_masked_like_one_over_http() -> None:
    state = play(approved())
    given = Reply(process="致电13800001234", content="好了", satisfaction="satisfied", replier="王工", replied_at=NOW)
    DispatchProjection(DESK).apply(state, event(ReplyOrder(branch="jinan", actor="x", reply=given), "branch/jinan"))
    reply = state.by_ticket[TICKET].reply
    assert reply is not None
    assert reply.process == "致电138****1234"
