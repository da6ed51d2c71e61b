"""What sla remembers: the facts of a complaint, the runs of its clocks, escalations and incidents. Times are UTC."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any
from uuid import UUID

from shared.calendar import WorkingCalendar
from shared.contracts.dispatch import Label
from shared.contracts.sla import ClockRef, EscalationKind, EscalationRaised, Problem
from shared.contracts.ticket import Basis, ClassMark, TicketRef, TicketSnapshot
from shared.ids import new_id
from shared.policy import ClockSpec, Complaint, Pack
from shared.subject import Subject

AFTER = timedelta(microseconds=1)
"""The smallest step of stored time: a clock with boundary `after` is breached one step past its deadline."""


class ClockState(StrEnum):
    running = "running"
    met = "met"
    breached = "breached"
    stopped = "stopped"
    """Ended without a verdict: the ticket was withdrawn or merged, or the clock was a reminder only."""


class EscalationStatus(StrEnum):
    open = "open"
    acknowledged = "acknowledged"
    settled = "settled"
    """What it was raised about came to its end before anybody acknowledged it."""


class IncidentStatus(StrEnum):
    open = "open"
    closed = "closed"


@dataclass(frozen=True, slots=True)
class Rulebook:
    """What the rules of sla decide by: the pack and the working calendar as of now."""

    pack: Pack
    calendar: WorkingCalendar

    def basis(self, *rules: str) -> Basis:
        return _basis(self.pack.id, self.pack.version, rules)


@lru_cache(maxsize=1024)
def _basis(pack: str, version: str, rules: tuple[str, ...]) -> Basis:
    return Basis(pack=pack, version=version, rules=tuple(dict.fromkeys(rules)))


@dataclass(slots=True)
class ClockRun:
    """One run of a clock. `cycle` counts the runs of this kind on the ticket from 1.

    `started_at` is where the limit counts from, `opened_at` the time of the event that started it. The ladder's hours
    count from the deadline, or from `ladder_from` where the deadline had passed before anybody could know it.
    `changed` and `redated` say what is to be stored: what happened to it, and a deadline reckoned again.
    """

    clock_id: UUID
    ticket_id: UUID
    kind: str
    cycle: int
    rule: str
    started_at: datetime
    opened_at: datetime
    ladder_from: datetime
    due_at: datetime
    warn_at: datetime | None = None
    state: ClockState = ClockState.running
    boundary: str = "after"
    soft: bool = False
    on_breach: EscalationKind = "overdue"
    ladder: str | None = None
    provisional: bool = False
    counted_seconds: float = 0.0
    excluded_seconds: float = 0.0
    explanation: dict[str, Any] = field(default_factory=dict)
    warned_at: datetime | None = None
    breached_at: datetime | None = None
    stopped_at: datetime | None = None
    rung: int = 0
    rung_at: datetime | None = None
    acknowledged_by: str | None = None
    acknowledged_at: datetime | None = None
    is_new: bool = False
    changed: bool = False
    redated: bool = False

    @property
    def open(self) -> bool:
        """Whether something may still happen to it: it runs, or its breach is still unanswered."""
        return self.stopped_at is None

    @property
    def running(self) -> bool:
        return self.state is ClockState.running and self.stopped_at is None

    @property
    def breach_at(self) -> datetime:
        """The first moment at which the promise is broken."""
        return self.due_at if self.boundary == "at" else self.due_at + AFTER

    @property
    def next_at(self) -> datetime | None:
        """The next moment at which something is due, None when nothing is."""
        if self.stopped_at is not None:
            return None
        if self.state is ClockState.running:
            return self.warn_at if self.warns else self.breach_at
        return self.rung_at

    @property
    def warns(self) -> bool:
        """Whether the next moment of a running clock is its warning."""
        return self.warn_at is not None and self.warned_at is None and self.warn_at < self.breach_at

    def ref(self) -> ClockRef:
        return ClockRef(
            kind=self.kind,
            cycle=self.cycle,
            rule=self.rule,
            started_at=self.started_at,
            due_at=self.due_at,
            provisional=self.provisional,
        )


@dataclass(frozen=True, slots=True)
class Escalation:
    """One escalation as stored; `event` is what was published."""

    ticket_id: UUID
    event: EscalationRaised
    raised_at: datetime
    clock_id: UUID | None = None


@dataclass(slots=True)
class Facts(Subject):
    """What sla keeps of one ticket. `version` counts sla's events of this ticket.

    `seen` maps a clock's kind to the time of its last stop event, and `start:<kind>` to that of a start event that
    came while the clock ran: between publishers nothing is ordered. `cycles` counts the runs of each kind.
    `added` are the classes found by sla and dispatch, which review's snapshots may not know yet. `snapshot` is the
    ticket, or its JSON as stored until somebody asks for `ticket`: what fires of a clock needs its number only.
    `restated` says that the snapshot is to be stored again, and what follows from it.
    """

    ticket_no: str = ""
    customer_key: str = ""
    snapshot: TicketSnapshot | str = ""
    problem: Problem | None = None
    vip: bool = False
    counts: bool = False
    branch: str | None = None
    archived_at: datetime | None = None
    ended: bool = False
    incident_id: UUID | None = None
    seen: dict[str, datetime] = field(default_factory=dict)
    cycles: dict[str, int] = field(default_factory=dict)
    added: tuple[ClassMark, ...] = ()
    is_new: bool = False
    changed: bool = False
    restated: bool = False
    runs: list[ClockRun] = field(default_factory=list)
    escalations: list[Escalation] = field(default_factory=list)

    @property
    def ticket(self) -> TicketSnapshot:
        if isinstance(self.snapshot, str):
            self.snapshot = TicketSnapshot.model_validate_json(self.snapshot)
        return self.snapshot

    @ticket.setter
    def ticket(self, snapshot: TicketSnapshot) -> None:
        self.snapshot = snapshot
        self.customer_key = snapshot.customer.key
        self.restated = True

    @property
    def ref(self) -> TicketRef:
        return TicketRef(ticket_id=self.ticket_id, ticket_no=self.ticket_no)

    @property
    def complaint(self) -> Complaint:
        return Complaint(self.ticket_id, self.ticket.customer.key, self.vip, self.ticket.accepted_at)

    @property
    def is_appeal(self) -> bool:
        """Whether it was found to be one just now; what was found before is stored."""
        return any(each.event.kind == "appeal" for each in self.escalations)

    def has_class(self, code: str) -> bool:
        return any(mark.code == code for mark in self.ticket.classes)

    def escalate(
        self,
        kind: EscalationKind,
        reason: str,
        basis: Basis,
        now: datetime,
        *,
        rung: int = 1,
        level: Label | None = None,
        clock: ClockRun | None = None,
        incident_id: UUID | None = None,
        earlier: TicketRef | None = None,
        adds: tuple[ClassMark, ...] = (),
    ) -> None:
        """Publish an escalation and keep it for who must acknowledge it."""
        event = EscalationRaised(
            ticket_no=self.ticket_no,
            escalation_id=new_id(),
            kind=kind,
            reason=reason,
            rung=rung,
            level=level,
            clock=clock.ref() if clock is not None else None,
            incident_id=incident_id,
            earlier=earlier,
            adds=adds,
            basis=basis,
        )
        self.record(event, now)
        self.escalations.append(Escalation(self.ticket_id, event, now, clock.clock_id if clock else None))


@dataclass(slots=True)
class Incident(Subject):
    """Many complaints of one problem (GDM-D6). `ticket_id` is the incident's own id, the subject of its events.

    `first_at` and `last_at` are the event times of its first and last member.
    """

    problem: Problem = None  # type: ignore[assignment]
    status: IncidentStatus = IncidentStatus.open
    first_at: datetime = datetime.min
    last_at: datetime = datetime.min
    opened_at: datetime = datetime.min
    closed_at: datetime | None = None
    member_count: int = 0
    is_new: bool = False
    changed: bool = False

    @property
    def incident_id(self) -> UUID:
        return self.ticket_id


def label_of(pack: Pack, kind: str) -> Label:
    """The name of a clock, for people; the kind itself where the pack does not know it any more."""
    spec: ClockSpec | None = pack.clock_by_kind.get(kind)
    return spec.label if spec is not None else Label(zh=kind, en=kind)


def span(seconds: float) -> tuple[str, str]:
    """A duration for people, in Chinese and English, cut to whole minutes (seconds below one minute)."""
    if seconds < 60:
        return f"{seconds:.0f} 秒", f"{seconds:.0f} s"
    days, rest = divmod(int(seconds), 86_400)
    hours, minutes = rest // 3600, rest % 3600 // 60
    zh = " ".join(f"{n} {unit}" for n, unit in ((days, "天"), (hours, "小时"), (minutes, "分")) if n)
    en = " ".join(f"{n} {unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "min")) if n)
    return zh, en
