"""The part of a pack that speaks of time: limits, clocks and ladders.

A limit gives exactly one of its forms. `hours` and `minutes` are elapsed time, day and night (domain section 0).
"""

import re
from collections.abc import Iterable
from datetime import time, timedelta
from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from shared.policy.conditions import When
from shared.policy.parts import Label, Part, RuleModel

FORMS = (
    "hours",
    "minutes",
    "working_days",
    "half_working_days",
    "before_time_of_day",
    "end_of_working_day",
    "by_class",
)
_TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):[0-5]\d")


class TimeLimit(Part):
    """How long. `before_time_of_day`: the next such local time; `by_class`: the shortest of `limits.resolution`."""

    hours: float | None = Field(default=None, gt=0)
    minutes: float | None = Field(default=None, gt=0)
    working_days: int | None = Field(default=None, ge=1)
    half_working_days: int | None = Field(default=None, ge=1)
    before_time_of_day: str | None = None
    end_of_working_day: Literal[True] | None = None
    by_class: Literal[True] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "TimeLimit":
        given = [form for form in FORMS if getattr(self, form) is not None]
        if len(given) != 1:
            raise ValueError(f"a limit needs exactly one of {', '.join(FORMS)}; given: {', '.join(given) or 'none'}")
        if self.before_time_of_day is not None and not _TIME_OF_DAY.fullmatch(self.before_time_of_day):
            raise ValueError('before_time_of_day must look like "17:00"')
        return self

    @property
    def elapsed_hours(self) -> float | None:
        """The limit in elapsed hours, None for the forms that need the calendar."""
        if self.hours is not None:
            return self.hours
        return None if self.minutes is None else self.minutes / 60

    @cached_property
    def elapsed(self) -> timedelta | None:
        """The limit as elapsed time, None for the forms that need the calendar."""
        return None if self.elapsed_hours is None else timedelta(hours=self.elapsed_hours)

    @cached_property
    def in_working_time(self) -> bool:
        return bool(self.half_working_days or self.working_days or self.end_of_working_day)

    @cached_property
    def time_of_day(self) -> time | None:
        """The local time of `before_time_of_day`."""
        return None if self.before_time_of_day is None else time.fromisoformat(self.before_time_of_day)

    @cached_property
    def words(self) -> tuple[str, str]:
        """The limit for people, in Chinese and English, with the kind of time it counts in."""
        zh, en = self._amount()
        zh_kind, en_kind = ("按工作时间", "working time") if self.in_working_time else ("按自然时间", "elapsed time")
        return f"{zh}（{zh_kind}）", f"{en} ({en_kind})"

    def _amount(self) -> tuple[str, str]:
        if self.minutes is not None:
            return f"{self.minutes:g} 分钟", f"{self.minutes:g} minutes"
        if self.hours is not None:
            return f"{self.hours:g} 小时", f"{self.hours:g} hours"
        if self.working_days is not None:
            return f"{self.working_days} 个工作日", f"{self.working_days} working days"
        if self.half_working_days is not None:
            return f"{self.half_working_days} 个半工作日", f"{self.half_working_days} half working days"
        if self.before_time_of_day is not None:
            return f"{self.before_time_of_day} 之前", f"before {self.before_time_of_day}"
        return "当个工作日结束前", "by the end of the working day"


class LimitRule(RuleModel):
    """One promise. `replaces` names the rules that do not count when this one applies (8.3 no. 18)."""

    when: When = When({})
    limit: TimeLimit
    replaces: tuple[str, ...] = ()


class Limits(Part):
    """The promises to the customer. Those by class are elapsed time, so that the shortest can be told."""

    first_reply: LimitRule
    resolution: tuple[LimitRule, ...]
    fallback: LimitRule

    @cached_property
    def resolved_by(self) -> tuple[str, ...]:
        """All facts that the limits by class look at."""
        return tuple(sorted({fact for rule in self.resolution for fact, _, _ in rule.when.uses}))

    @cached_property
    def resolved(self) -> dict[tuple[object, ...], LimitRule]:
        """The limit by class that was found for these facts."""
        return {}

    @model_validator(mode="after")
    def _comparable(self) -> "Limits":
        if any(rule.limit.elapsed_hours is None for rule in (*self.resolution, self.fallback)):
            raise ValueError("limits by class must be hours or minutes")
        if self.first_reply.limit.by_class:
            raise ValueError("the first reply has no limit by class")
        return self


class Trigger(Part):
    """An event type, and what else must hold (facts of the ticket, and `event.*`)."""

    event: str
    when: When = When({})


class ClockSpec(RuleModel):
    """One clock. See docs/policy-packs.md for the meaning of every field."""

    kind: str
    label: Label
    limit: TimeLimit
    start: tuple[Trigger, ...]
    stop: tuple[Trigger, ...]
    start_at: Literal["event", "accepted_at", "contacted_at"] = "event"
    instant: bool = False
    """Met or breached at once: it runs from `start_at` to the time of the event itself and never waits (GDM-O2)."""
    boundary: Literal["after", "at"] = "after"
    """At the deadline itself: `after` is still on time, `at` is too late (">= 48 h", "before 17:00")."""
    soft: bool = False
    """A reminder only: warned, never breached (SDM-S6)."""
    repeats: bool = False
    """Starts again after each fulfilment and after each breach, until the ticket ends (GDM-O5)."""
    once: bool = False
    """At most one run a ticket, however often it would start."""
    warn_fraction: float | None = Field(default=None, gt=0, lt=1)
    on_breach: Literal["overdue", "silent_branch", "progress_due"] = "overdue"
    ladder: str | None = None
    enabled: bool = True
    disabled_because: Label | None = None

    @model_validator(mode="after")
    def _reason_when_disabled(self) -> "ClockSpec":
        if not self.enabled and self.disabled_because is None:
            raise ValueError("a clock that is not enabled needs disabled_because")
        return self


class RungSpec(Part):
    level: Label
    after_hours: float = Field(ge=0)


class Ladder(RuleModel):
    rungs: tuple[RungSpec, ...] = Field(min_length=1)


TriggerTable = dict[str, list[tuple[ClockSpec, Trigger]]]


class Triggers:
    """For each event type, the clocks it may start and stop. Clocks that are not enabled are left out."""

    def __init__(self, clocks: Iterable[ClockSpec]) -> None:
        known = tuple(clocks)
        enabled = tuple(clock for clock in known if clock.enabled)
        self.by_class = frozenset(clock.kind for clock in known if clock.limit.by_class)
        self.all_kinds = tuple(clock.kind for clock in enabled)
        self.start: TriggerTable = {}
        self.stop: TriggerTable = {}
        for clock in enabled:
            for table, triggers in ((self.start, clock.start), (self.stop, clock.stop)):
                for trigger in triggers:
                    table.setdefault(trigger.event, []).append((clock, trigger))

    def kinds_of(self, event_type: str) -> set[str]:
        """The clocks that an event of this type may start or stop."""
        return {clock.kind for table in (self.start, self.stop) for clock, _ in table.get(event_type, ())}
