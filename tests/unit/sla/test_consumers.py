"""What events mean to sla: `apply` is pure on the loaded state."""

from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from services.sla.consumers import SlaProjection, Watch
from services.sla.domain.detection import Earlier, Neighbourhood
from services.sla.domain.records import ClockState, Facts
from services.sla.usecases.desk import Desk
from shared.clock import Clock
from shared.contracts.dispatch import OrderRaised, OrderReturned, TicketClosed, TicketReopened
from shared.contracts.envelope import Envelope
from shared.contracts.intake import TicketRegistered, TicketSupplemented, TicketWithdrawn
from shared.contracts.review import ReviewApproved, ReviewReclassified
from shared.contracts.ticket import Basis, ClassMark, TicketRef, TicketSnapshot
from shared.errors import NotYet
from shared.messaging.events import Event, Record
from shared.policy import assess
from tests.unit.policy.tickets import pack, ticket
from tests.unit.sla.parts import HOUR, T0, book, published, run

BASIS = Basis(pack="mobile_operator", version="any")
ID = UUID(int=1)
CLOSED = TicketClosed(ticket_no="x", outcome="satisfied", basis=BASIS, actor="a")


def event(data: Any, at: datetime, subject: UUID = ID) -> Event:
    envelope = Envelope(UUID(int=0), "/gongdan/test", data.TYPE, subject, at, 1)
    return Event(envelope, data, Record("t", 0, 0, None, (), b""))


def snapshot(**given: Any) -> TicketSnapshot:
    return assess(pack(), ticket(**given))


def registered(at: datetime = T0, subject: UUID = ID, **given: Any) -> Event:
    return event(TicketRegistered(ticket=snapshot(accepted_at=at, **given), actor="a"), at, subject)


class Play:
    def __init__(self) -> None:
        self.projection = SlaProjection(Desk(pack(), Clock()))
        self.state = Watch(T0, book(), {}, {}, {}, {})

    def apply(self, *events: Event) -> Facts:
        for each in events:
            self.projection.apply(self.state, each)
        return self.state.facts[ID]


def test_an_event_on_a_ticket_that_is_not_registered_waits() -> None:
    play = Play()
    with pytest.raises(NotYet):
        play.apply(event(CLOSED, T0))
    assert play.state.facts == {}


def test_every_event_that_moves_a_clock_of_the_pack_is_consumed() -> None:
    triggers = pack().triggers
    assert {*triggers.start, *triggers.stop, *pack().terminal_events} <= SlaProjection(Desk(pack(), Clock())).types


def test_an_order_that_was_given_back_stays_in_sight_of_its_branch() -> None:
    """As in dispatch, until another branch has it."""
    data = OrderReturned(branch="jinan", reason_code="RT_ELEMENTS_INCOMPLETE", basis=BASIS, actor="a")
    play = Play()
    play.apply(registered()).branch = "jinan"
    assert play.apply(event(data, T0 + HOUR)).branch == "jinan"


def test_a_repeat_has_its_limit_from_the_start() -> None:
    play = Play()
    earlier = Earlier(TicketRef(ticket_id=UUID(int=9), ticket_no="T20260901-0000009"), T0 - 90 * HOUR, T0 - 50 * HOUR)
    first = registered(customer={"brand": "mzone"})
    play.state.archived["c1", "own_services.ring_back|jinan"] = [earlier]
    held = play.apply(first)
    assert run(held, "resolution").due_at == T0 + 48 * HOUR
    assert "changes" not in run(held, "resolution").explanation
    assert published(held) == ["escalation.raised"]


@pytest.mark.parametrize("order", ["closed first", "registered first"])
def test_a_repeat_is_found_in_both_orders(order: str) -> None:
    """The closing of the earlier ticket is dispatch's event, the later ticket is intake's."""
    play = Play()
    play.apply(registered())
    later = [event(CLOSED, T0 + HOUR), registered(T0 + 2 * HOUR, UUID(int=2))]
    play.apply(*(later if order == "closed first" else reversed(later)))
    again = play.state.facts[UUID(int=2)]
    assert again.has_class("repeat")
    assert published(again).count("escalation.raised") == 2  # repeat, and a second complaint within 4 h


def test_closing_and_reopening() -> None:
    play = Play()
    held = play.apply(registered(), event(CLOSED, T0 + HOUR))
    assert (held.ended, held.archived_at) == (True, T0 + HOUR)
    reopened = TicketReopened(ticket_no="x", reason="r", round=2, basis=BASIS, actor="a")
    play.apply(event(reopened, T0 + 2 * HOUR))
    assert (held.ended, held.archived_at) == (False, None)
    assert run(held, "resolution").running


def test_a_withdrawn_ticket_is_not_archived() -> None:
    held = Play().apply(registered(), event(TicketWithdrawn(ticket_no="x", reason="r", actor="a"), T0 + HOUR))
    assert (held.ended, held.archived_at) == (True, None)
    assert {each.state for each in held.runs} == {ClockState.stopped}


def test_classes_found_here_survive_the_snapshots_of_others() -> None:
    play = Play()
    mark = ClassMark(code="raised", rule="GDM-D8")
    raised = OrderRaised(branch="jinan", to="province", reason="r", classes=(mark,), basis=BASIS, actor="a")
    held = play.apply(registered(), event(raised, T0 + HOUR))
    assert held.added == (mark,)
    major = snapshot(flags=("major",))
    play.apply(event(ReviewReclassified(ticket=major, category_before="x", basis=BASIS, actor="a"), T0 + 2 * HOUR))
    assert held.has_class("major")
    assert held.has_class("raised")
    assert run(held, "resolution").rule == "GDM-L5"
    play.apply(event(TicketSupplemented(ticket=snapshot(), changed=(), actor="a"), T0 + 3 * HOUR))
    assert held.has_class("major")


def test_a_corrected_category_counts_for_the_other_problem() -> None:
    play = Play()
    held = play.apply(registered())
    corrected = snapshot(category="network.coverage.indoor")
    around = Neighbourhood()
    play.state.around["network.coverage.indoor|jinan"] = around
    play.apply(event(ReviewReclassified(ticket=corrected, category_before="x", basis=BASIS, actor="a"), T0 + HOUR))
    assert held.problem is not None
    assert held.problem.key == "network.coverage.indoor|jinan"
    assert set(around.loose) == {ID}


def test_a_stored_snapshot_is_read_when_it_is_asked_for_and_stored_again_when_it_is_another() -> None:
    given = snapshot()
    held = Facts(ticket_id=ID, ticket_no=given.ticket_no, snapshot=given.model_dump_json(exclude_none=True))
    assert isinstance(held.snapshot, str)
    assert held.ticket == given
    assert not held.restated
    held.ticket = snapshot(customer={"key": "another"})
    assert (held.restated, held.customer_key) == (True, "another")


def test_an_event_touches_the_clocks_that_its_type_starts_or_stops_and_those_by_class() -> None:
    projection = SlaProjection(Desk(pack(), Clock()))
    approved = event(ReviewApproved(ticket=snapshot(), round=1, automatic=True, basis=BASIS, actor="rules"), T0)
    assert projection.kinds_touched([approved]) == frozenset({"review", "major_first_answer", "resolution"})
    assert projection.kinds_touched([approved, event(CLOSED, T0)]) is None


def test_of_a_customer_who_complains_without_end_only_what_is_no_appeal_yet_is_looked_at_again() -> None:
    play = Play()
    play.apply(*(registered(T0 + number * HOUR / 60, UUID(int=number + 1)) for number in range(30)))
    assert play.state.later["c1"] == {ID}
    for number in range(1, 30):
        assert published(play.state.facts[UUID(int=number + 1)]).count("escalation.raised") == 1


def test_a_closing_finds_the_repeat_of_a_customer_who_was_corrected_in_the_same_batch() -> None:
    play = Play()
    second = UUID(int=2)
    play.apply(registered(), registered(T0 + 2 * HOUR, second, customer={"key": "wrong"}))
    play.state.facts_of("c1")
    corrected = snapshot(accepted_at=T0 + 2 * HOUR)
    play.apply(event(TicketSupplemented(ticket=corrected, changed=("customer",), actor="a"), T0 + 3 * HOUR, second))
    play.apply(event(CLOSED, T0 + HOUR))
    assert play.state.facts[second].has_class("repeat")
