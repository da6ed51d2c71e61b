"""Requests and answers of sla's API."""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from services.sla.domain.records import ClockState, EscalationStatus, IncidentStatus, label_of, span
from shared.contracts.dispatch import Label
from shared.contracts.sla import EscalationRaised
from shared.contracts.ticket import TicketRef
from shared.http.fields import ShortText, YesNo
from shared.policy import Pack

STATES = {
    ClockState.running: Label(zh="进行中", en="running"),
    ClockState.met: Label(zh="按时完成", en="met"),
    ClockState.breached: Label(zh="已超时", en="breached"),
    ClockState.stopped: Label(zh="已终止", en="ended without a verdict"),
}
BECAUSE = {
    "classes": Label(zh="投诉类别变化", en="the classes changed"),
    "calendar": Label(zh="工作日历公布", en="the working calendar was published"),
}


class SetDay(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    working: YesNo
    source: ShortText = Field(description="the document that says so", examples=["国办发明电〔2026〕12号"])


class DueChange(BaseModel):
    """A deadline that was moved, and why."""

    at: datetime
    because: str
    rule_before: str
    due_before: datetime
    rule: str
    due: datetime


class ClockView(BaseModel):
    """One run of a clock with its arithmetic: counted + excluded = due_at - started_at. Times are UTC."""

    kind: str
    label: Label
    cycle: int
    state: ClockState
    rule: str
    started_at: datetime
    due_at: datetime
    provisional: bool
    counted_seconds: float
    excluded_seconds: float
    warned_at: datetime | None
    breached_at: datetime | None
    stopped_at: datetime | None
    next_at: datetime | None
    rung: int
    acknowledged_by: str | None
    acknowledged_at: datetime | None
    changes: list[DueChange]
    explanation: Label


class ClockList(BaseModel):
    ticket_id: UUID
    ticket_no: str
    items: list[ClockView]


class DueView(BaseModel):
    ticket_id: UUID
    ticket_no: str
    branch: str | None
    kind: str
    label: Label
    rule: str
    due_at: datetime
    minutes_left: float


class DueList(BaseModel):
    """The next first. `now` is business time."""

    now: datetime
    items: list[DueView]


class EscalationView(BaseModel):
    escalation_id: UUID
    ticket_id: UUID
    ticket_no: str
    kind: str
    rung: int
    level: Label | None
    status: EscalationStatus
    reason: str
    rules: list[str]
    clock: str | None
    due_at: datetime | None
    incident_id: UUID | None
    earlier: TicketRef | None
    raised_at: datetime
    acknowledged_by: str | None
    acknowledged_at: datetime | None
    settled_at: datetime | None


class EscalationPage(BaseModel):
    items: list[EscalationView]
    next_cursor: str | None = None


class IncidentView(BaseModel):
    """Many complaints of one problem. `first_at` and `last_at` are when its first and last complaint were made."""

    incident_id: UUID
    status: IncidentStatus
    problem: dict[str, str | None]
    first_at: datetime
    last_at: datetime
    opened_at: datetime
    closed_at: datetime | None
    member_count: int


class IncidentPage(BaseModel):
    items: list[IncidentView]
    next_cursor: str | None = None


class MemberView(BaseModel):
    ticket_id: UUID
    ticket_no: str
    accepted_at: datetime
    vip: bool
    branch: str | None
    ended: bool


class IncidentDetail(IncidentView):
    """With a page of its members, the newest ticket first."""

    members: list[MemberView]
    next_cursor: str | None = None


class DayView(BaseModel):
    day: date
    working: bool
    source: str
    changed_by: str | None
    changed_at: datetime


class CalendarYear(BaseModel):
    """The stored days of a year. A year that is not published is computed from weekends and statutory holidays."""

    year: int
    published_through: date | None
    working_days: int
    items: list[DayView]


def clock_view(pack: Pack, row: Any) -> ClockView:
    state = ClockState(row.state)
    return ClockView(
        kind=row.kind,
        label=label_of(pack, row.kind),
        cycle=row.cycle,
        state=state,
        rule=row.rule,
        started_at=row.started_at,
        due_at=row.due_at,
        provisional=row.provisional,
        counted_seconds=row.counted_seconds,
        excluded_seconds=row.excluded_seconds,
        warned_at=row.warned_at,
        breached_at=row.breached_at,
        stopped_at=row.stopped_at,
        next_at=row.next_at,
        rung=row.rung,
        acknowledged_by=row.acknowledged_by,
        acknowledged_at=row.acknowledged_at,
        changes=row.explanation.get("changes", []),
        explanation=_explain(pack, row, state),
    )


def _explain(pack: Pack, row: Any, state: ClockState) -> Label:
    """The arithmetic in words: start, limit, counted and excluded time, deadline, state, and what moved it."""

    def local(moment: datetime | str) -> str:
        at = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        return at.astimezone(pack.tz).strftime("%Y-%m-%d %H:%M:%S")

    counted, excluded = span(row.counted_seconds), span(row.excluded_seconds)
    zh = [f"自 {local(row.started_at)} 起", row.explanation["zh"], f"计入 {counted[0]},不计 {excluded[0]}"]
    en = [f"from {local(row.started_at)}", row.explanation["en"], f"counted {counted[1]}, not counted {excluded[1]}"]
    for change in row.explanation.get("changes", []):
        why = BECAUSE.get(change["because"], Label(zh=change["because"], en=change["because"]))
        before = f"{change['rule_before']} {local(change['due_before'])}"
        zh.append(f"{local(change['at'])} 因{why.zh}由 {before} 改为 {change['rule']} {local(change['due'])}")
        en.append(f"at {local(change['at'])} moved from {before} to {change['rule']} {local(change['due'])}: {why.en}")
    if row.provisional:
        zh.append("工作日历尚未公布,截止时间为暂定")
        en.append("provisional: the working calendar is not published yet")
    name = STATES[state]
    ended = row.stopped_at
    zh.append(f"状态:{name.zh}" + (f"({local(ended)} 结束)" if ended is not None else ""))
    en.append(f"state: {name.en}" + (f" (ended {local(ended)})" if ended is not None else ""))
    return Label(zh=";".join(zh), en="; ".join(en))


def due_view(pack: Pack, row: Any, now: datetime) -> DueView:
    return DueView(
        ticket_id=row.ticket_id,
        ticket_no=row.ticket_no,
        branch=row.branch,
        kind=row.kind,
        label=label_of(pack, row.kind),
        rule=row.rule,
        due_at=row.due_at,
        minutes_left=round((row.due_at - now).total_seconds() / 60, 1),
    )


def escalation_view(row: Any) -> EscalationView:
    event = EscalationRaised.model_validate(row.event)
    return EscalationView(
        escalation_id=row.escalation_id,
        ticket_id=row.ticket_id,
        ticket_no=row.ticket_no,
        kind=row.kind,
        rung=row.rung,
        level=event.level,
        status=EscalationStatus(row.status),
        reason=event.reason,
        rules=list(event.basis.rules),
        clock=event.clock.kind if event.clock is not None else None,
        due_at=event.clock.due_at if event.clock is not None else None,
        incident_id=row.incident_id,
        earlier=event.earlier,
        raised_at=row.raised_at,
        acknowledged_by=row.acknowledged_by,
        acknowledged_at=row.acknowledged_at,
        settled_at=row.settled_at,
    )


def incident_view(row: Any) -> IncidentView:
    return IncidentView(**_incident(row))


def incident_detail(row: Any, members: list[Any], next_cursor: str | None) -> IncidentDetail:
    return IncidentDetail(**_incident(row), members=[member_view(each) for each in members], next_cursor=next_cursor)


def _incident(row: Any) -> dict[str, Any]:
    return {
        "incident_id": row.incident_id,
        "status": row.status,
        "problem": row.problem_parts,
        "first_at": row.first_at,
        "last_at": row.last_at,
        "opened_at": row.opened_at,
        "closed_at": row.closed_at,
        "member_count": row.member_count,
    }


def member_view(row: Any) -> MemberView:
    return MemberView(
        ticket_id=row.ticket_id,
        ticket_no=row.ticket_no,
        accepted_at=row.accepted_at,
        vip=row.vip,
        branch=row.branch,
        ended=row.ended,
    )


def day_view(row: Any) -> DayView:
    return DayView(
        day=row.day, working=row.working, source=row.source, changed_by=row.changed_by, changed_at=row.changed_at
    )
