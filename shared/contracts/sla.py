"""Events of sla: warnings, breaches, escalations, and incidents (many complaints of one problem)."""

from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID

from shared.contracts.dispatch import Label
from shared.contracts.ticket import Basis, ClassMark, Contract, TicketRef
from shared.contracts.topics import SLA

EscalationKind = Literal["overdue", "repeat", "appeal", "batch", "silent_branch", "progress_due"]


class ClockRef(Contract):
    """One run of a clock: `cycle` counts the runs of this kind on the ticket from 1. Times are UTC."""

    kind: str
    cycle: int
    rule: str
    started_at: datetime
    due_at: datetime
    provisional: bool = False


class ClockWarned(Contract):
    TYPE: ClassVar = "clock.warned"
    TOPIC: ClassVar = SLA

    ticket_no: str
    clock: ClockRef
    basis: Basis


class ClockBreached(Contract):
    """A promise was missed. `late_seconds` is business time between the deadline and the firing or the late stop."""

    TYPE: ClassVar = "clock.breached"
    TOPIC: ClassVar = SLA

    ticket_no: str
    clock: ClockRef
    fired_at: datetime
    late_seconds: float
    basis: Basis


class EscalationRaised(Contract):
    """Somebody higher must look. `rung` counts the steps of the ladder from 1 (逐级上报); `level` names who is asked.

    `adds` are complaint classes that the ticket gains by it (repeat, batch).
    """

    TYPE: ClassVar = "escalation.raised"
    TOPIC: ClassVar = SLA

    ticket_no: str
    escalation_id: UUID
    kind: EscalationKind
    reason: str
    rung: int = 1
    level: Label | None = None
    clock: ClockRef | None = None
    incident_id: UUID | None = None
    earlier: TicketRef | None = None
    adds: tuple[ClassMark, ...] = ()
    basis: Basis


class Problem(Contract):
    """What "the same problem" is: the values of the pack's problem key."""

    key: str
    parts: dict[str, str | None]


class IncidentOpened(Contract):
    """Enough complaints of one problem came within the window (GDM-D6). The subject is the incident."""

    TYPE: ClassVar = "incident.opened"
    TOPIC: ClassVar = SLA

    incident_id: UUID
    problem: Problem
    first_at: datetime
    last_at: datetime
    members: tuple[TicketRef, ...]
    basis: Basis


class IncidentJoined(Contract):
    """A ticket became a member of an incident. The subject is the ticket."""

    TYPE: ClassVar = "incident.joined"
    TOPIC: ClassVar = SLA

    ticket_no: str
    incident_id: UUID
    problem: Problem


class IncidentClosed(Contract):
    """No complaint of the problem came for the quiet time. The subject is the incident."""

    TYPE: ClassVar = "incident.closed"
    TOPIC: ClassVar = SLA

    incident_id: UUID
    problem: Problem
    first_at: datetime
    last_at: datetime
    member_count: int
    basis: Basis
