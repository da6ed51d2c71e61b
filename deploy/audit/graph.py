"""Which event may follow which: the states of each service's part of a ticket, replayed from its own events.

The tables say what `services/*/domain` allows, seen through the events that each move publishes. A state at which a
service never rests stands between two events of one transaction.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from deploy.audit.evidence import Evidence
from services.dispatch.domain.order import IN_HAND, WITH_BRANCH, OrderStatus
from services.intake.domain import ORDER_STATUS, REVIEW_STATUS, TicketStatus
from services.review.domain import OVER, ReviewStatus

NEW = "new"
SENDING_ON = "sending on"
"""Transferred, reopened, or returned and kept by a rule: `order.dispatched` follows in the same transaction."""
WATCHED = "watched"
OPEN = "open"

Step = tuple[frozenset[str], str | None]
"""From which states, and to which; None stays."""


def _step(*before: str, to: str | None = None) -> Step:
    return frozenset(str(state) for state in before), None if to is None else str(to)


_OPEN_REVIEW = (NEW, *(state for state in ReviewStatus if state not in OVER))

INTAKE: Mapping[str, Step] = {
    "ticket.registered": _step(NEW, to=TicketStatus.registered),
    "ticket.supplemented": _step(TicketStatus.registered),
    "ticket.withdrawn": _step(TicketStatus.registered, to=TicketStatus.withdrawn),
    "ticket.answered": _step(TicketStatus.registered, to=TicketStatus.answered),
    "ticket.erased": _step(TicketStatus.registered, TicketStatus.withdrawn, TicketStatus.answered),
}
# A supplement, which review does not publish, takes a returned review back to the checks.
REVIEW: Mapping[str, Step] = {
    "review.held": _step(*_OPEN_REVIEW, to=ReviewStatus.waiting),
    "review.approved": _step(NEW, ReviewStatus.waiting, ReviewStatus.returned, to=ReviewStatus.approved),
    "review.returned": _step(NEW, ReviewStatus.waiting, ReviewStatus.returned, to=ReviewStatus.returned),
    "review.merged": _step(ReviewStatus.waiting, to=ReviewStatus.merged),
    "review.reclassified": _step(ReviewStatus.waiting),
    "approval.requested": _step(*_OPEN_REVIEW),
    "approval.granted": _step(*ReviewStatus, NEW),
    "approval.refused": _step(*ReviewStatus, NEW),
}
DISPATCH: Mapping[str, Step] = {
    "order.dispatched": _step(NEW, SENDING_ON, OrderStatus.returned, OrderStatus.replied, to=OrderStatus.dispatched),
    "order.accepted": _step(OrderStatus.dispatched, to=OrderStatus.accepted),
    "order.progressed": _step(*IN_HAND),
    "order.replied": _step(*IN_HAND, to=OrderStatus.replied),
    "order.returned": _step(*WITH_BRANCH, to=OrderStatus.returned),
    "order.transferred": _step(*WITH_BRANCH, to=SENDING_ON),
    "order.raised": _step(*WITH_BRANCH, to=OrderStatus.raised),
    "order.urged": _step(*IN_HAND),
    "order.escalated": _step(*IN_HAND),
    "order.recalled": _step(*IN_HAND, to=OrderStatus.ended),
    "callback.recorded": _step(OrderStatus.replied),
    "ticket.closed": _step(OrderStatus.replied, OrderStatus.raised, OrderStatus.returned, to=OrderStatus.closed),
    "ticket.reopened": _step(OrderStatus.replied, OrderStatus.closed, to=SENDING_ON),
}
SLA: Mapping[str, Step] = {
    "clock.warned": _step(NEW, WATCHED, to=WATCHED),
    "clock.breached": _step(NEW, WATCHED, to=WATCHED),
    "escalation.raised": _step(NEW, WATCHED, to=WATCHED),
    "incident.joined": _step(NEW, WATCHED, to=WATCHED),
    "incident.opened": _step(NEW, to=OPEN),
    "incident.closed": _step(OPEN, to="closed"),
}
GRAPHS: Mapping[str, Mapping[str, Step]] = {"intake": INTAKE, "review": REVIEW, "dispatch": DISPATCH, "sla": SLA}

SHOWN: Mapping[str, TicketStatus] = {**REVIEW_STATUS, **ORDER_STATUS}
"""What intake shows after an event of review or dispatch."""


@dataclass(frozen=True, slots=True)
class Told:
    """One event, as far as the graph looks at it."""

    version: int
    type: str
    redispatched: bool = False


@dataclass(frozen=True, slots=True)
class Replay:
    """What a subject's own events lead to. `illegal` names the first event that could not follow, if any.

    `rounds` counts the events that send an order out, `shown` is the status that intake gives to the last event that
    has one.
    """

    state: str
    shown: str | None
    rounds: int
    reopened: bool
    illegal: str | None


def replay(service: str, events: Iterable[Told]) -> Replay:
    graph = GRAPHS[service]
    state, rounds, reopened = NEW, 0, False
    shown: str | None = None
    illegal: str | None = None
    for event in events:
        step = graph.get(event.type)
        if step is None or state not in step[0]:
            illegal = illegal or f"version {event.version} {event.type} after {state}"
        if step is not None and step[1] is not None:
            state = SENDING_ON if event.redispatched else step[1]
        if event.type in SHOWN:
            shown = str(SHOWN[event.type])
        rounds += event.type == "order.dispatched"
        reopened = reopened or event.type == "ticket.reopened"
    if illegal is None and state == SENDING_ON:
        illegal = f"the events stop at {state}"
    return Replay(state, shown, rounds, reopened, illegal)


def replay_all(evidence: Evidence) -> None:
    """Replay every subject whose first event is still kept."""
    told = evidence.rows(
        "SELECT service, subject, version, type, redispatched FROM outbox WHERE stream = 'own'"
        " ORDER BY service, subject, version"
    )
    evidence.add("replayed", _replays(told))


def _replays(told: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    for (service, subject), rows in groupby(told, key=lambda row: (row["service"], row["subject"])):
        events = [Told(row["version"], row["type"], bool(row["redispatched"])) for row in rows]
        if events[0].version == 1:
            found = replay(service, events)
            yield (service, subject, found.state, found.shown, found.rounds, int(found.reopened), found.illegal)
