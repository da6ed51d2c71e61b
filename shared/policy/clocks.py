"""Limits and clocks: which run, until when, and what "in time" means at the very deadline (domain section 3)."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from shared.calendar import WorkingCalendar
from shared.contracts.ticket import Limit, TicketSnapshot
from shared.policy.clock_model import ClockSpec, LimitRule, TimeLimit, TriggerTable
from shared.policy.facts import TicketFacts, facts_of
from shared.policy.model import Pack
from shared.policy.results import ClockChanges, Due, Rung, Words

FIRST_REPLY = "first_reply"
RESOLUTION = "resolution"
ZERO = timedelta(0)
SITUATIONS_KEPT = 10_000


def resolution_rule(pack: Pack, ticket: TicketSnapshot) -> LimitRule:
    """The shortest promise that applies, after those that another one replaces are taken out (8.3 no. 18)."""
    facts = facts_of(pack, ticket)
    limits = pack.limits
    # The same brand and the same classes find the same rule: asked again it costs 2 µs instead of 9.
    # With their types, for a rule tells 1 from true, and a key of a dict does not.
    situation = tuple([(type(value), value) for value in (facts[name] for name in limits.resolved_by)])
    rule = limits.resolved.get(situation)
    if rule is None:
        holding = [rule for rule in limits.resolution if rule.when(facts)]
        replaced = {rule_id for rule in holding for rule_id in rule.replaces}
        counting = [rule for rule in holding if rule.id not in replaced]
        rule = min(counting, key=lambda rule: rule.limit.elapsed_hours or 0.0, default=limits.fallback)
        if len(limits.resolved) < SITUATIONS_KEPT:
            limits.resolved[situation] = rule
    return rule


def limits(pack: Pack, ticket: TicketSnapshot, calendar: WorkingCalendar) -> tuple[Limit, ...]:
    """The promises to the customer with their absolute ends, counted from acceptance."""
    start = ticket.accepted_at
    rules = ((FIRST_REPLY, pack.limits.first_reply), (RESOLUTION, resolution_rule(pack, ticket)))
    return tuple(Limit(kind=kind, rule=rule.id, due_at=_end(rule.limit, start, calendar)) for kind, rule in rules)


def clock_changes(pack: Pack, event_type: str, ticket: TicketSnapshot, event: Mapping[str, object]) -> ClockChanges:
    """Which clocks this event stops and starts. `event` is the event's data, with `holiday` added by the caller."""
    triggers = pack.triggers
    facts = facts_of(pack, ticket, event=event)
    if event_type in pack.terminal_events:
        return ClockChanges(_fired(triggers.start, event_type, facts), triggers.all_kinds, terminal=True)
    stopped = tuple(clock.kind for clock in _fired(triggers.stop, event_type, facts))
    return ClockChanges(_fired(triggers.start, event_type, facts), stopped)


def _fired(table: TriggerTable, event_type: str, facts: TicketFacts) -> tuple[ClockSpec, ...]:
    fired = {clock.kind: clock for clock, trigger in table.get(event_type, ()) if trigger.when(facts)}
    return tuple(fired.values())


def clock_start(spec: ClockSpec, ticket: TicketSnapshot, event: Mapping[str, object], at: datetime) -> datetime:
    """The moment a clock counts from; `at` is the time of the event that starts it."""
    if spec.start_at == "accepted_at":
        return ticket.accepted_at
    contacted_at = event.get("contacted_at")
    if spec.start_at == "contacted_at" and contacted_at is not None:
        return contacted_at if isinstance(contacted_at, datetime) else datetime.fromisoformat(str(contacted_at))
    return at


def clock_due(
    pack: Pack, spec: ClockSpec, ticket: TicketSnapshot, started_at: datetime, calendar: WorkingCalendar
) -> Due:
    """When a clock that began at `started_at` is due."""
    limit, rule = spec.limit, spec.id
    if limit.by_class:
        found = resolution_rule(pack, ticket)
        limit, rule = found.limit, found.id
    due_at = _end(limit, started_at, calendar)
    elapsed = due_at - started_at
    counted = _counted(limit, started_at, due_at, calendar)
    warn_at = None
    if spec.warn_fraction is not None:
        warn_at = _warning(limit, started_at, due_at, counted * spec.warn_fraction, calendar)
    return Due(
        due_at=due_at,
        warn_at=warn_at,
        rule=rule,
        provisional=limit.in_working_time and calendar.rests_on_provisional(started_at, due_at),
        counted=counted,
        excluded=elapsed - counted,
        explanation=_explain(limit, rule, pack, due_at),
    )


def _end(limit: TimeLimit, start: datetime, calendar: WorkingCalendar) -> datetime:
    start = start.astimezone(UTC)
    if (elapsed := limit.elapsed) is not None:
        return start + elapsed
    if limit.working_days is not None:
        return calendar.add_working_days(start, limit.working_days)
    if limit.half_working_days is not None:
        return calendar.add_half_working_days(start, limit.half_working_days)
    if limit.time_of_day is not None:
        return calendar.next_time_of_day(start, limit.time_of_day)
    if limit.end_of_working_day:
        return calendar.end_of_working_day(start)
    raise ValueError("a limit by class must be resolved first")


def _counted(limit: TimeLimit, start: datetime, due_at: datetime, calendar: WorkingCalendar) -> timedelta:
    """The time between the two that counts."""
    if limit.half_working_days is not None:
        return calendar.half_working_days(limit.half_working_days)
    return calendar.working_time_between(start, due_at) if limit.in_working_time else due_at - start


def _warning(
    limit: TimeLimit, start: datetime, due_at: datetime, after: timedelta, calendar: WorkingCalendar
) -> datetime | None:
    """The moment of the warning, in the same kind of time as the limit; None where it would not come before the end."""
    if after <= ZERO:
        return None
    warn_at = calendar.add_working_time(start, after) if limit.in_working_time else start + after
    return warn_at if warn_at < due_at else None


def _explain(limit: TimeLimit, rule: str, pack: Pack, due_at: datetime) -> Words:
    zh, en = limit.words
    local = due_at.astimezone(pack.tz).replace(tzinfo=None).isoformat(" ", "seconds")
    return Words(f"{rule}：{zh}，截止 {local}", f"{rule}: {en}, due {local}")


def on_time(spec: ClockSpec, due_at: datetime, stopped_at: datetime) -> bool:
    """Whether stopping then keeps the promise; at the deadline itself the clock's `boundary` decides."""
    return stopped_at < due_at if spec.boundary == "at" else stopped_at <= due_at


def rung(pack: Pack, ladder_id: str, n: int) -> Rung | None:
    """Step `n` (from 1) of a ladder; None past its end. Raises: `KeyError` for an unknown ladder."""
    ladder = pack.ladder_by_id[ladder_id]
    if not 1 <= n <= len(ladder.rungs):
        return None
    step = ladder.rungs[n - 1]
    return Rung(level=step.level, after=timedelta(hours=step.after_hours), rule=ladder.id)
