"""How events start, stop and change clocks. Every function is pure: state in, changed state and recorded events out.

Between publishers nothing is ordered, so a stop event may come before the start event it belongs to. Each ticket
remembers the last stop of each kind, and a start in the meantime; both orders end in the same state.
"""

from collections.abc import Mapping
from datetime import datetime

from services.sla.domain.records import ClockRun, ClockState, Facts, Rulebook
from shared.contracts.dispatch import TicketClosed
from shared.contracts.intake import TicketAnswered
from shared.contracts.sla import ClockBreached
from shared.ids import new_id
from shared.policy import ClockSpec, Due, clock_changes, clock_due, clock_start, on_time, resolution_rule

RESOLUTION = "resolution"
WAITING_START = "start:"


def carry_out(book: Rulebook, facts: Facts, event_type: str, event: Mapping[str, object], at: datetime) -> None:
    """Stop and start the clocks that the pack ties to this event; `at` is the event's own time.

    `event` is the event's data, with `holiday` added.
    """
    changes = clock_changes(book.pack, event_type, facts.ticket, event)
    seen_before = dict(facts.seen)
    fulfilled: list[str] = []
    for kind in changes.stop:
        if not changes.terminal:
            facts.seen[kind] = max(at, facts.seen.get(kind, at))
            facts.changed = True
        for run in [run for run in facts.runs if run.kind == kind and run.open]:
            if changes.terminal:
                _end(book, facts, run, event_type, at)
            elif at >= _reference(book, run):
                stop(book, facts, run, at)
                fulfilled.append(kind)
    if facts.ended:
        return
    for spec in changes.start:
        begin(book, facts, spec, clock_start(spec, facts.ticket, event, at), at, seen_before.get(spec.kind))
    if not changes.terminal:
        started = {spec.kind for spec in changes.start}
        for kind in dict.fromkeys(fulfilled):
            _go_on(book, facts, kind, at, started)


def begin(
    book: Rulebook,
    facts: Facts,
    spec: ClockSpec,
    started_at: datetime,
    opened_at: datetime,
    seen: datetime | None = None,
) -> None:
    """Start a clock, unless it runs, or ran before and may run only once.

    `seen` is a stop of this clock known before: when it is not earlier than the start, the run ends there at once.
    """
    if spec.once and facts.cycles.get(spec.kind):
        return
    if not spec.instant and any(run.kind == spec.kind and run.running for run in facts.runs):
        waiting = WAITING_START + spec.kind
        facts.seen[waiting] = max(opened_at, facts.seen.get(waiting, opened_at))
        facts.changed = True
        return
    run = _new_run(book, facts, spec, started_at, opened_at)
    if spec.instant:
        stop(book, facts, run, opened_at)
    elif seen is not None and seen >= _reference(book, run):
        stop(book, facts, run, seen)


def _new_run(book: Rulebook, facts: Facts, spec: ClockSpec, started_at: datetime, opened_at: datetime) -> ClockRun:
    due = clock_due(book.pack, spec, facts.ticket, started_at, book.calendar)
    cycle = facts.cycles.get(spec.kind, 0) + 1
    run = ClockRun(
        clock_id=new_id(),
        ticket_id=facts.ticket_id,
        kind=spec.kind,
        cycle=cycle,
        rule=due.rule,
        started_at=started_at,
        opened_at=opened_at,
        ladder_from=opened_at,
        due_at=due.due_at,
        # Nobody is warned of a deadline that had passed when the clock began.
        warn_at=due.warn_at if due.due_at > opened_at else None,
        boundary=spec.boundary,
        soft=spec.soft,
        on_breach=spec.on_breach,
        ladder=spec.ladder,
        provisional=due.provisional,
        counted_seconds=due.counted.total_seconds(),
        excluded_seconds=due.excluded.total_seconds(),
        explanation={"zh": due.explanation.zh, "en": due.explanation.en},
        is_new=True,
        changed=True,
    )
    facts.cycles[spec.kind] = cycle
    facts.changed = True
    facts.runs.append(run)
    return run


def stop(book: Rulebook, facts: Facts, run: ClockRun, at: datetime) -> None:
    """End a run at that time: met, or breached when it is too late. A breach that happened stays."""
    run.stopped_at = at
    run.changed = True
    if run.state is not ClockState.running:
        return
    if _in_time(book, run, at):
        run.state = ClockState.met
    elif run.soft:
        run.state = ClockState.stopped
    else:
        breach(book, facts, run, at)


def breach(book: Rulebook, facts: Facts, run: ClockRun, at: datetime) -> None:
    """The promise is broken; `at` is when that was established (the sweep, or the stop that came too late)."""
    run.state = ClockState.breached
    run.breached_at = at
    run.changed = True
    facts.record(
        ClockBreached(
            ticket_no=facts.ticket_no,
            clock=run.ref(),
            fired_at=at,
            late_seconds=(at - run.due_at).total_seconds(),
            basis=book.basis(run.rule),
        ),
        at,
    )


def _end(book: Rulebook, facts: Facts, run: ClockRun, event_type: str, at: datetime) -> None:
    """The ticket ended. A first-contact answer fulfils every promise, closing the resolution; the rest lapses."""
    fulfils = event_type == TicketAnswered.TYPE or (event_type == TicketClosed.TYPE and run.kind == RESOLUTION)
    if run.running and not fulfils and _in_time(book, run, at):
        run.state = ClockState.stopped
    stop(book, facts, run, at)


def _in_time(book: Rulebook, run: ClockRun, at: datetime) -> bool:
    spec = book.pack.clock_by_kind.get(run.kind)
    return on_time(spec, run.due_at, at) if spec is not None else at < run.breach_at


def _reference(book: Rulebook, run: ClockRun) -> datetime:
    """The earliest stop that ends this run. One that runs once may be fulfilled before its start was known."""
    spec = book.pack.clock_by_kind.get(run.kind)
    return min(run.started_at, run.opened_at) if spec is not None and spec.once else run.opened_at


def _go_on(book: Rulebook, facts: Facts, kind: str, at: datetime, started: set[str]) -> None:
    """After a fulfilment: the next cycle of a repeating clock, or the start that came while this one still ran."""
    waiting = facts.seen.pop(WAITING_START + kind, None)
    spec = book.pack.clock_by_kind.get(kind)
    if spec is None or not spec.enabled or kind in started:
        return
    if spec.repeats:
        begin(book, facts, spec, at, at)
    elif waiting is not None and waiting >= at:
        begin(book, facts, spec, facts.ticket.accepted_at if spec.start_at == "accepted_at" else waiting, waiting)


def recompute_by_class(book: Rulebook, facts: Facts, at: datetime) -> None:
    """The classes changed: a shorter limit counts from the original start at once; a longer one only where the pack's
    rule replaces the one that was promised (domain 8.3 no. 18)."""
    for run in facts.runs:
        spec = book.pack.clock_by_kind.get(run.kind)
        if spec is None or not spec.limit.by_class or not run.running:
            continue
        if resolution_rule(book.pack, facts.ticket).id == run.rule:
            continue
        due = clock_due(book.pack, spec, facts.ticket, run.started_at, book.calendar)
        if due.due_at <= run.due_at or replaces(book, due.rule, run.rule):
            move_due(run, due, at, "classes")


def replaces(book: Rulebook, rule: str, promised: str) -> bool:
    """Whether a limit takes the place of another one. The fallback counts only while nothing else does."""
    found = next((each for each in book.pack.limits.resolution if each.id == rule), None)
    return found is not None and (promised in found.replaces or promised == book.pack.limits.fallback.id)


def recompute_provisional(book: Rulebook, facts: Facts, now: datetime) -> None:
    """The working calendar of a year was published: what rested on computed days is reckoned again."""
    for run in facts.runs:
        spec = book.pack.clock_by_kind.get(run.kind)
        if spec is None or not run.running or not run.provisional:
            continue
        due = clock_due(book.pack, spec, facts.ticket, run.started_at, book.calendar)
        if due.due_at != run.due_at:
            move_due(run, due, now, "calendar")
        elif not due.provisional:
            run.provisional = False
            run.changed = run.redated = True


def move_due(run: ClockRun, due: Due, at: datetime, because: str) -> None:
    """Give a running clock another deadline, and keep what it was in its explanation."""
    change = {
        "at": at.isoformat(),
        "because": because,
        "rule_before": run.rule,
        "due_before": run.due_at.isoformat(),
        "rule": due.rule,
        "due": due.due_at.isoformat(),
    }
    run.explanation = {
        "zh": due.explanation.zh,
        "en": due.explanation.en,
        "changes": [*run.explanation.get("changes", []), change],
    }
    run.rule, run.due_at, run.warn_at = due.rule, due.due_at, due.warn_at
    if due.due_at <= at:
        run.warn_at = None
        run.ladder_from = max(run.ladder_from, at)
    run.provisional = due.provisional
    run.counted_seconds, run.excluded_seconds = due.counted.total_seconds(), due.excluded.total_seconds()
    run.changed = run.redated = True


def acknowledge(run: ClockRun, actor: str, now: datetime) -> None:
    """Somebody took it in hand: the ladder goes no further. The breach and the clock stay as they are."""
    if run.acknowledged_at is None:
        run.acknowledged_by, run.acknowledged_at = actor, now
        run.rung_at = None
        run.changed = True
