"""What the policy answers. Each answer that decides something carries the `Basis` it rests on.

Plain frozen values: the services store them or copy them into events. Times are timezone-aware UTC.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from shared.contracts.dispatch import Label, Satisfaction
from shared.contracts.review import Finding
from shared.contracts.ticket import Basis
from shared.policy.clock_model import ClockSpec


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value the pack does not know; `expected` lists what it would take (cut to a readable number)."""

    field: str
    value: str
    expected: list[str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Review's answer. `reason_code` is set for a return, and for a hold that proposes one."""

    outcome: Literal["approve", "return", "hold"]
    reason_code: str | None
    missing: tuple[str, ...]
    findings: tuple[Finding, ...]
    basis: Basis


@dataclass(frozen=True, slots=True)
class Route:
    """Where a ticket goes. `redispatch` False after a return by a branch: review decides, the rest is a proposal.

    `category` is set only where the rule changes the complaint type.
    """

    branch: str
    unit: str | None
    complaint_city: str
    category: str | None
    instruction: Label | None
    redispatch: bool
    basis: Basis


@dataclass(frozen=True, slots=True)
class ClockChanges:
    """Apply `stop` first, then `start`. A start of a clock that runs is ignored.

    `terminal`: the ticket is at its end, so `stop` names every clock and repeating clocks do not start again.
    """

    start: tuple[ClockSpec, ...]
    stop: tuple[str, ...]
    terminal: bool = False


class Words(NamedTuple):
    """A sentence for people, in Chinese and English."""

    zh: str
    en: str


@dataclass(frozen=True, slots=True)
class Due:
    """When a clock is due. `counted` + `excluded` == `due_at` - start; provisional: a day's plan is not published."""

    due_at: datetime
    warn_at: datetime | None
    rule: str
    provisional: bool
    counted: timedelta
    excluded: timedelta
    explanation: Words


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of a ladder; `after` is the elapsed time since the rung before (since the breach for the first)."""

    level: Label
    after: timedelta
    rule: str


@dataclass(frozen=True, slots=True)
class CallbackDecision:
    needed: bool
    basis: Basis


@dataclass(frozen=True, slots=True)
class CallbackOutcome:
    action: Literal["close", "retry", "reopen", "person"]
    basis: Basis


@dataclass(frozen=True, slots=True)
class Closing:
    """How the ticket is closed. The true outcome is not part of it: it is stored as it is (domain 8.2)."""

    reported_outcome: Satisfaction | None
    notices: tuple[str, ...]
    follow_up: bool
    basis: Basis
