"""The rule tables of a pack: kinds, classes, urgency, review, routing, detection, callback and closing.

Tables are read from top to bottom. Unless a model says otherwise the first rule that holds decides.
"""

from typing import Literal

from pydantic import Field, field_validator

from shared.contracts.dispatch import Satisfaction
from shared.policy.conditions import When
from shared.policy.parts import Code, Label, Part, Pattern, RuleModel

MESSAGE_WORDS = ("missing", "duplicate", "category", "prefix")


class ReturnReason(Part):
    """A coded reason of a return. `by`: who may give it."""

    code: str = Field(pattern=r"^RT_[A-Z_]+$")
    label: Label
    by: tuple[Literal["review", "branch"], ...] = Field(min_length=1)
    cites: tuple[str, ...] = Field(min_length=1)
    inferred: bool = False


class KindRule(RuleModel):
    """The kind is really another one."""

    when: When
    kind: str


class ComplaintClass(Part):
    """A class of domain 4.4. `rule` is the rule that defines it; `urgent` classes make an urgent complaint (GDM-D3)."""

    code: Code
    label: Label
    urgent: bool
    rule: str
    inferred: bool = False


class ClassRule(RuleModel):
    """Every rule that holds adds its class."""

    when: When
    add: str


class UrgencyLevel(Part):
    """`rank` 1 is first in the queue."""

    code: Code
    label: Label
    rank: int = Field(ge=1)


class UrgencyRule(RuleModel):
    when: When = When({})
    level: str


class SerialCheck(RuleModel):
    """The call serial begins with the local time of the call and fits when the call came shortly before submission.

    Resubmitted tickets are also compared with the acceptance, because a correction may take days.
    """

    pattern: Pattern
    tolerance_minutes: float = Field(gt=0)
    clock_skew_minutes: float = Field(ge=0)


class Check(RuleModel):
    """One review check. The first that returns or holds decides; all of them are shown as findings.

    A `note` decides nothing: it adds the rule to the basis, so that "why was this not returned?" has an answer.
    Messages may use {missing}, {duplicate}, {category} and {prefix}.
    """

    when: When
    outcome: Literal["return", "hold", "note"]
    reason: str | None = None
    missing: tuple[str, ...] = ()
    """What is missing; without it, and for the reason of missing elements, the elements themselves."""
    proposal: str | None = None
    message: Label

    @field_validator("message")
    @classmethod
    def _known_words(cls, value: Label) -> Label:
        for text in (value.zh, value.en):
            try:
                text.format_map(dict.fromkeys(MESSAGE_WORDS, ""))
            except (KeyError, ValueError, IndexError):
                raise ValueError(f"a message may use only {{{'}, {'.join(MESSAGE_WORDS)}}}") from None
        return value


class RouteRule(RuleModel):
    """One routing rule. `branch` and `complaint_city` are targets, tried in order; a rule whose targets are all
    unknown does not apply.

    A target is `home_city`, `place_city`, `returned_by`, `previous_branch`, `element.<code>` (an element that names a
    city) or the id of a branch. A complaint city may also be one of the other regions.
    """

    when: When = When({})
    branch: tuple[str, ...] = Field(min_length=1)
    unit: str | None = None
    centre_of: Literal["agent", "home"] = "agent"
    """For units with one desk a sub-centre: the agent's sub-centre, or the one of the home city."""
    complaint_city: tuple[str, ...] = ()
    """Without it, the complaint city is the branch."""
    category: str | None = None
    instruction: Label | None = None
    redispatch: bool = False


class TypeRule(RuleModel):
    """The complaint type is corrected on dispatch, wherever the ticket goes (RTE-14, RTE-16)."""

    when: When
    category: str


class Outside(RuleModel):
    """Where a ticket goes whose home city is not one of our branches."""

    branch: str
    unit: str
    complaint_city: str
    business_complaint_city: tuple[str, ...]
    """For business matters, where the centre itself is forbidden (DET-34)."""


class Routing(Part):
    rules: tuple[RouteRule, ...] = Field(min_length=1)
    types: tuple[TypeRule, ...] = ()
    outside: Outside


class BatchRule(RuleModel):
    """Both counts are "this many or more" within the window; `quiet_minutes` without a new one closes the incident."""

    window_minutes: float = Field(gt=0)
    ordinary_tickets: int = Field(ge=2)
    vip_customers: int = Field(ge=2)
    quiet_minutes: float = Field(gt=0)
    adds: str


class RepeatRule(RuleModel):
    calendar_months: int = Field(ge=1)
    adds: str


class AppealRule(RuleModel):
    within_hours: float = Field(gt=0)
    same_problem: bool
    adds: str | None = None


class ProblemPart(Part):
    """One part of the key: the first of these facts that is known."""

    name: Code
    first_of: tuple[str, ...] = Field(min_length=1)
    required: bool = True


class ProblemKey(RuleModel):
    parts: tuple[ProblemPart, ...] = Field(min_length=1)


class Detection(Part):
    problem: ProblemKey
    batch: BatchRule
    repeat: RepeatRule
    appeal: AppealRule


class CallbackNeed(RuleModel):
    when: When = When({})
    needed: bool


class AfterCallback(RuleModel):
    when: When = When({})
    action: Literal["close", "retry", "reopen", "person"]


class CallbackRules(Part):
    needed: tuple[CallbackNeed, ...] = Field(min_length=1)
    after: tuple[AfterCallback, ...] = Field(min_length=1)
    retry_after_hours: float = Field(default=4, gt=0)


class ReportingRule(RuleModel):
    when: When
    outcome: Satisfaction


class Reporting(Part):
    """A second, reported outcome beside the true one (domain 8.2). Off unless an organisation answers for it."""

    enabled: bool = False
    rules: tuple[ReportingRule, ...] = ()


class ClosingRule(RuleModel):
    """Every rule that holds adds its notice and its follow-up."""

    when: When
    notice: str | None = None
    follow_up: bool = False


class Closings(Part):
    rules: tuple[ClosingRule, ...] = ()
    reporting: Reporting = Reporting()
