"""What happens when a clock's moment comes: the warning, the breach, the rungs of the ladder (逐級上報, GDM-P3).

Never early: the caller gives the database's business time. Late after an outage: everything fires in due order, with
the true deadline and the true time of firing.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.sla.domain.clocks import begin, breach
from services.sla.domain.records import ClockRun, ClockState, Facts, Rulebook, label_of, span
from shared.contracts.dispatch import Label
from shared.contracts.sla import ClockWarned
from shared.policy import rung

WARNING = "warning"
REMINDER = "reminder"
BREACH = "breach"
RUNG = "rung"

_REASONS = {
    "overdue": ("{label}超时", "{label}: overdue"),
    "silent_branch": ("分中心逾期未反馈({label})", "The sub-centre is silent ({label})"),
    "progress_due": ("应向客户通报进展而未通报({label})", "A progress report to the customer is due ({label})"),
}


@dataclass(frozen=True, slots=True)
class Fired:
    """One moment that fired: what it was, and when it was due (business time)."""

    moment: str
    due: datetime


def fire_all(book: Rulebook, pairs: Iterable[tuple[Facts, ClockRun]], horizon: datetime, now: datetime) -> list[Fired]:
    """Fire every moment up to `horizon` (not later than `now`), over all clocks in due order."""
    queue: list[tuple[datetime, UUID]] = []
    owners: dict[UUID, tuple[Facts, ClockRun]] = {}

    def add(facts: Facts, run: ClockRun) -> None:
        if run.next_at is not None and run.next_at <= horizon:
            owners[run.clock_id] = (facts, run)
            heapq.heappush(queue, (run.next_at, run.clock_id))

    for facts, run in pairs:
        add(facts, run)
    fired: list[Fired] = []
    while queue:
        due, clock_id = heapq.heappop(queue)
        facts, run = owners[clock_id]
        known = len(facts.runs)
        fired.append(Fired(fire(book, facts, run, now), due))
        for each in (run, *facts.runs[known:]):
            add(facts, each)
    return fired


def fire(book: Rulebook, facts: Facts, run: ClockRun, now: datetime) -> str:
    """Carry out the next moment of a run whose `next_at` has come. Gives the kind of moment."""
    run.changed = True
    if run.state is ClockState.breached:
        _climb(book, facts, run, now)
        return RUNG
    if run.warns:
        run.warned_at = now
        _warn(book, facts, run, now)
        return WARNING
    if run.soft:
        # A reminder has done its work at the deadline; it never becomes a breach (domain 8.3 no. 32).
        run.state = ClockState.stopped
        run.stopped_at = now
        run.warned_at = run.warned_at or now
        _warn(book, facts, run, now)
        return REMINDER
    breach(book, facts, run, now)
    _next_rung(book, run, max(run.due_at, run.ladder_from))
    if run.rung_at is None and run.on_breach != "overdue":
        run.rung = 1
        _escalate(book, facts, run, now, None, ())
    spec = book.pack.clock_by_kind.get(run.kind)
    if spec is not None and spec.repeats and spec.enabled and not facts.ended:
        begin(book, facts, spec, run.due_at, run.due_at)
    return BREACH


def _warn(book: Rulebook, facts: Facts, run: ClockRun, now: datetime) -> None:
    facts.record(ClockWarned(ticket_no=facts.ticket_no, clock=run.ref(), basis=book.basis(run.rule)), now)


def _climb(book: Rulebook, facts: Facts, run: ClockRun, now: datetime) -> None:
    """Raise the next rung: the one before was not answered in its time."""
    step = rung(book.pack, run.ladder, run.rung + 1) if run.ladder in book.pack.ladder_by_id else None
    reached = run.rung_at or now
    run.rung_at = None
    if step is None:
        return
    run.rung += 1
    _escalate(book, facts, run, now, step.level, (step.rule,))
    _next_rung(book, run, reached)


def _next_rung(book: Rulebook, run: ClockRun, reached: datetime) -> None:
    step = rung(book.pack, run.ladder, run.rung + 1) if run.ladder in book.pack.ladder_by_id else None
    run.rung_at = None if step is None or run.acknowledged_at is not None else reached + step.after


def _escalate(
    book: Rulebook, facts: Facts, run: ClockRun, now: datetime, level: Label | None, rules: tuple[str, ...]
) -> None:
    label = label_of(book.pack, run.kind)
    zh_late, en_late = span(max(0.0, (now - run.due_at).total_seconds()))
    zh, en = _REASONS[run.on_breach]
    reason = f"{zh.format(label=label.zh)},已逾期 {zh_late} / {en.format(label=label.en)}, late by {en_late}"
    facts.escalate(run.on_breach, reason, book.basis(run.rule, *rules), now, rung=run.rung, level=level, clock=run)
