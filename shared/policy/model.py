"""One organisation's rules: the pack. Strict and immutable; everything a service asks is a lookup in it.

The loader makes it from `packs/<name>/pack.yaml`. References between its parts are checked in `references.py`, so a
pack that loads has no dangling code.
"""

from collections.abc import Iterator
from datetime import date, time
from functools import cached_property
from itertools import pairwise
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from shared.policy.categories import Category, CategoryNode, flatten
from shared.policy.cities import CityNames
from shared.policy.clock_model import ClockSpec, Ladder, Limits, Triggers
from shared.policy.elements import ElementSpec
from shared.policy.parts import Code, Label, Part
from shared.policy.references import check_references
from shared.policy.rules import (
    CallbackRules,
    Check,
    ClassRule,
    Closings,
    ComplaintClass,
    Detection,
    KindRule,
    ReturnReason,
    RouteRule,
    Routing,
    SerialCheck,
    TypeRule,
    UrgencyLevel,
    UrgencyRule,
)
from shared.policy.tables import RuleTable


class Branch(Part):
    """A branch that takes orders. `districts` are names that belong to no other branch."""

    id: Code
    name: Label
    kind: Literal["city", "centre"]
    adcode: str | None = Field(default=None, pattern=r"^\d{6}$")
    aliases: tuple[str, ...] = ()
    districts: tuple[str, ...] = ()


class Labelled(Part):
    """A code and its name: kinds, regions, flags, marks."""

    id: Code
    label: Label
    aliases: tuple[str, ...] = ()


class Unit(Labelled):
    """A desk inside a branch. `per_centre` units carry the sub-centre behind a dot: `sub_centre.<centre>`."""

    per_centre: bool = False


class Channel(Labelled):
    """Where complaints come from. `upstream`: an organisation to which a duplicate can go back (SDM-S1)."""

    upstream: bool = False
    call_serial_required: bool = False


class Kind(Labelled):
    counts_for_batch: bool = True


class Tier(Labelled):
    vip: bool = False
    club: bool = False
    gold_or_above: bool = False


class Pack(Part):
    id: Code
    name: Label
    version: str = Field(min_length=1, max_length=40)
    effective_from: date
    timezone: str
    working_hours: tuple[tuple[time, time], ...] = Field(min_length=1)
    branches: tuple[Branch, ...] = Field(min_length=1)
    other_regions: tuple[Labelled, ...] = ()
    units: tuple[Unit, ...] = ()
    channels: tuple[Channel, ...] = Field(min_length=1)
    kinds: tuple[Kind, ...] = Field(min_length=1)
    tiers: tuple[Tier, ...] = Field(min_length=1)
    brands: tuple[Labelled, ...] = ()
    group_ratings_a: tuple[str, ...] = ()
    flags: tuple[Labelled, ...] = ()
    marks: tuple[Labelled, ...] = ()
    notices: tuple[Labelled, ...] = ()
    elements: tuple[ElementSpec, ...] = ()
    categories: tuple[CategoryNode, ...] = Field(min_length=1)
    kind_rules: tuple[KindRule, ...] = ()
    classes: tuple[ComplaintClass, ...] = ()
    class_rules: tuple[ClassRule, ...] = ()
    urgency_levels: tuple[UrgencyLevel, ...] = Field(min_length=1)
    urgency_rules: tuple[UrgencyRule, ...] = Field(min_length=1)
    serial_check: SerialCheck
    return_reasons: tuple[ReturnReason, ...]
    checks: tuple[Check, ...] = ()
    routing: Routing
    limits: Limits
    terminal_events: tuple[str, ...]
    clocks: tuple[ClockSpec, ...] = ()
    ladders: tuple[Ladder, ...] = ()
    detection: Detection
    callback: CallbackRules
    closing: Closings

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"no such time zone: {value}") from None
        return value

    @field_validator("working_hours")
    @classmethod
    def _hours_in_order(cls, value: tuple[tuple[time, time], ...]) -> tuple[tuple[time, time], ...]:
        flat = [moment for span in value for moment in span]
        if any(moment.tzinfo is not None for moment in flat):
            raise ValueError("working hours are written as 08:30, without an offset")
        if any(later <= earlier for earlier, later in pairwise(flat)):
            raise ValueError("working hours must be in order and must not overlap")
        return value

    @model_validator(mode="after")
    def _references(self) -> "Pack":
        check_references(self)
        return self

    @cached_property
    def tz(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)

    @cached_property
    def city_names(self) -> CityNames:
        return CityNames(self.branches, self.other_regions)

    @cached_property
    def triggers(self) -> Triggers:
        return Triggers(self.clocks)

    @cached_property
    def kind_table(self) -> RuleTable[KindRule]:
        return RuleTable(self.kind_rules)

    @cached_property
    def class_table(self) -> RuleTable[ClassRule]:
        return RuleTable(self.class_rules)

    @cached_property
    def urgency_table(self) -> RuleTable[UrgencyRule]:
        return RuleTable(self.urgency_rules)

    @cached_property
    def check_table(self) -> RuleTable[Check]:
        return RuleTable(self.checks)

    @cached_property
    def route_table(self) -> RuleTable[RouteRule]:
        return RuleTable(self.routing.rules)

    @cached_property
    def type_table(self) -> RuleTable[TypeRule]:
        return RuleTable(self.routing.types)

    @cached_property
    def branch_by_id(self) -> dict[str, Branch]:
        return {branch.id: branch for branch in self.branches}

    @cached_property
    def region_ids(self) -> frozenset[str]:
        return frozenset(region.id for region in self.other_regions)

    @cached_property
    def channel_by_id(self) -> dict[str, Channel]:
        return {channel.id: channel for channel in self.channels}

    @cached_property
    def kind_by_id(self) -> dict[str, Kind]:
        return {kind.id: kind for kind in self.kinds}

    @cached_property
    def tier_by_id(self) -> dict[str, Tier]:
        return {tier.id: tier for tier in self.tiers}

    @cached_property
    def brand_by_id(self) -> dict[str, Labelled]:
        return {brand.id: brand for brand in self.brands}

    @cached_property
    def flag_by_id(self) -> dict[str, Labelled]:
        return {flag.id: flag for flag in self.flags}

    @cached_property
    def mark_by_id(self) -> dict[str, Labelled]:
        return {mark.id: mark for mark in self.marks}

    @cached_property
    def unit_by_id(self) -> dict[str, Unit]:
        return {unit.id: unit for unit in self.units}

    @cached_property
    def element_by_code(self) -> dict[str, ElementSpec]:
        return {element.code: element for element in self.elements}

    @cached_property
    def category_by_code(self) -> dict[str, Category]:
        """Every category by its dotted code, inherited fields filled in."""
        return {category.code: category for category in flatten(self.categories)}

    @cached_property
    def class_by_code(self) -> dict[str, ComplaintClass]:
        return {each.code: each for each in self.classes}

    @cached_property
    def urgent_classes(self) -> frozenset[str]:
        return frozenset(each.code for each in self.classes if each.urgent)

    @cached_property
    def level_by_code(self) -> dict[str, UrgencyLevel]:
        return {level.code: level for level in self.urgency_levels}

    @cached_property
    def reason_by_code(self) -> dict[str, ReturnReason]:
        return {reason.code: reason for reason in self.return_reasons}

    @cached_property
    def clock_by_kind(self) -> dict[str, ClockSpec]:
        """Every clock, also those not enabled."""
        return {clock.kind: clock for clock in self.clocks}

    @cached_property
    def ladder_by_id(self) -> dict[str, Ladder]:
        return {ladder.id: ladder for ladder in self.ladders}

    def category(self, code: str) -> Category | None:
        return self.category_by_code.get(code)

    def rule_ids(self) -> Iterator[str]:
        """The id of every rule of the pack, for the summary and the tests."""
        for rules in (self.kind_rules, self.class_rules, self.urgency_rules, self.checks, self.routing.rules):
            yield from (rule.id for rule in rules)
        yield from (rule.id for rule in (self.limits.first_reply, *self.limits.resolution, self.limits.fallback))
        yield from (clock.id for clock in self.clocks)
