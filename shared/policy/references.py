"""Checks that every code a pack uses is one that it defines. A mistake names its place; the loader finds the line."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticCustomError

from shared.contracts.registry import MODELS
from shared.policy.conditions import ELEMENT, When

if TYPE_CHECKING:
    from shared.policy.model import Pack

Path = tuple[str | int, ...]

BRANCH_TARGETS = ("home_city", "place_city", "returned_by", "previous_branch")


def _error(message: str, path: Path) -> PydanticCustomError:
    return PydanticCustomError("reference", "{message}", {"message": message, "path": list(path)})


def check_references(pack: "Pack") -> None:
    """Raises at the first duplicate or dangling code."""
    _unique(pack)
    _tables_end(pack)
    known = _known_codes(pack)
    for fact_path, when in _conditions(pack, ()):
        _check_condition(when, known, fact_path)
    for path, value, where in _references(pack):
        if value not in known[where]:
            raise _error(f"{value!r} is not among the {where} of this pack", path)


def _unique(pack: "Pack") -> None:
    tables: dict[str, Iterable[str]] = {
        "branches": [b.id for b in pack.branches] + [r.id for r in pack.other_regions],
        "categories": [c.code for c in _flat(pack)],
        "elements": [e.code for e in pack.elements],
        "classes": [c.code for c in pack.classes],
        "return_reasons": [r.code for r in pack.return_reasons],
        "urgency_levels": [u.code for u in pack.urgency_levels],
        "clocks": [c.kind for c in pack.clocks],
        "checks": [c.id for c in pack.checks],
        "class_rules": [c.id for c in pack.class_rules],
        "kind_rules": [c.id for c in pack.kind_rules],
    }
    for name in ("units", "channels", "kinds", "tiers", "brands", "flags", "marks", "notices", "ladders"):
        tables[name] = [each.id for each in getattr(pack, name)]
    for name, codes in tables.items():
        _no_double(codes, (name,))
    _no_double((r.id for r in pack.routing.rules), ("routing", "rules"))


def _tables_end(pack: "Pack") -> None:
    """Tables of which the first rule that holds decides must decide always."""
    tables: dict[Path, Any] = {
        ("urgency_rules",): pack.urgency_rules,
        ("callback", "needed"): pack.callback.needed,
        ("callback", "after"): pack.callback.after,
    }
    for path, rules in tables.items():
        if rules[-1].when.raw:
            raise _error("the last rule must hold always: leave out its when", (*path, len(rules) - 1))


def _no_double(codes: Iterable[str], path: Path) -> None:
    seen: set[str] = set()
    for index, code in enumerate(codes):
        if code in seen:
            raise _error(f"{code!r} is defined twice", (*path, index))
        seen.add(code)


def _flat(pack: "Pack") -> list[Any]:
    return list(pack.category_by_code.values())


def _known_codes(pack: "Pack") -> dict[str, frozenset[str]]:
    centre_units = {unit.id for unit in pack.units}
    return {
        "channels": frozenset(pack.channel_by_id),
        "kinds": frozenset(pack.kind_by_id),
        "categories": frozenset(pack.category_by_code),
        "tiers": frozenset(pack.tier_by_id),
        "brands": frozenset(pack.brand_by_id),
        "flags": frozenset(pack.flag_by_id),
        "marks": frozenset(pack.mark_by_id),
        "notices": frozenset(notice.id for notice in pack.notices),
        "units": frozenset(centre_units),
        "elements": frozenset(pack.element_by_code),
        "classes": frozenset(pack.class_by_code),
        "urgency_levels": frozenset(pack.level_by_code),
        "return_reasons": frozenset(pack.reason_by_code),
        "branches": frozenset(pack.branch_by_id),
        "cities": frozenset(pack.branch_by_id) | pack.region_ids,
        "ladders": frozenset(pack.ladder_by_id),
        "event types": frozenset(MODELS),
        "limits": frozenset(rule.id for rule in (*pack.limits.resolution, pack.limits.fallback)),
        "targets": frozenset(BRANCH_TARGETS)
        | frozenset(pack.branch_by_id)
        | pack.region_ids
        | frozenset(ELEMENT + code for code, element in pack.element_by_code.items() if element.is_city),
    }


_CODED_FACTS = {
    "channel": "channels",
    "kind": "kinds",
    "category": "categories",
    "tier": "tiers",
    "brand": "brands",
    "home_city": "cities",
    "place_city": "branches",
    "flags": "flags",
    "classes": "classes",
    "elements_given": "elements",
    "elements_unavailable": "elements",
    "elements_missing": "elements",
    "return_reason": "return_reasons",
    "event.marks": "marks",
    "event.unit": "units",
    "event.reason_code": "return_reasons",
}


def _check_condition(when: When, known: dict[str, frozenset[str]], path: Path) -> None:
    for fact, value, inner in when.uses:
        if fact.startswith(ELEMENT) and fact.removeprefix(ELEMENT) not in known["elements"]:
            raise _error(f"unknown fact {fact!r}: the pack has no such element", (*path, *inner))
        where = _CODED_FACTS.get(fact)
        if value is not None and where is not None and value not in known[where]:
            raise _error(f"{value!r} is not among the {where} of this pack", (*path, *inner))


def _conditions(part: Any, path: Path) -> Iterator[tuple[Path, When]]:
    """Every condition inside a part, with its path."""
    if isinstance(part, When):
        yield path, part
    elif isinstance(part, tuple):
        for index, each in enumerate(part):
            yield from _conditions(each, (*path, index))
    elif hasattr(type(part), "model_fields"):
        for name in type(part).model_fields:
            yield from _conditions(getattr(part, name), (*path, name))


def _references(pack: "Pack") -> Iterator[tuple[Path, str, str]]:
    """Every plain reference: (path, value, table)."""
    yield from _category_references(pack.categories, ("categories",))
    for i, kind_rule in enumerate(pack.kind_rules):
        yield ("kind_rules", i, "kind"), kind_rule.kind, "kinds"
    for i, class_rule in enumerate(pack.class_rules):
        yield ("class_rules", i, "add"), class_rule.add, "classes"
    for i, urgency_rule in enumerate(pack.urgency_rules):
        yield ("urgency_rules", i, "level"), urgency_rule.level, "urgency_levels"
    for i, check in enumerate(pack.checks):
        if check.reason:
            yield ("checks", i, "reason"), check.reason, "return_reasons"
    yield from _routing_references(pack)
    yield from _clock_references(pack)
    yield ("detection", "batch", "adds"), pack.detection.batch.adds, "classes"
    yield ("detection", "repeat", "adds"), pack.detection.repeat.adds, "classes"
    if pack.detection.appeal.adds:
        yield ("detection", "appeal", "adds"), pack.detection.appeal.adds, "classes"
    for i, closing_rule in enumerate(pack.closing.rules):
        if closing_rule.notice:
            yield ("closing", "rules", i, "notice"), closing_rule.notice, "notices"


def _category_references(nodes: Iterable[Any], path: Path) -> Iterator[tuple[Path, str, str]]:
    for i, node in enumerate(nodes):
        for j, code in enumerate(node.elements or ()):
            yield (*path, i, "elements", j), code, "elements"
        if node.unit:
            yield (*path, i, "unit"), node.unit, "units"
        yield from _category_references(node.children, (*path, i, "children"))


def _routing_references(pack: "Pack") -> Iterator[tuple[Path, str, str]]:
    for i, rule in enumerate(pack.routing.rules):
        here: Path = ("routing", "rules", i)
        for j, target in enumerate(rule.branch):
            yield (*here, "branch", j), target, "targets"
        for j, target in enumerate(rule.complaint_city):
            yield (*here, "complaint_city", j), target, "targets"
        if rule.unit:
            yield (*here, "unit"), rule.unit, "units"
        if rule.category:
            yield (*here, "category"), rule.category, "categories"
    for i, type_rule in enumerate(pack.routing.types):
        yield ("routing", "types", i, "category"), type_rule.category, "categories"
    outside = pack.routing.outside
    yield ("routing", "outside", "branch"), outside.branch, "branches"
    yield ("routing", "outside", "unit"), outside.unit, "units"
    yield ("routing", "outside", "complaint_city"), outside.complaint_city, "cities"
    for j, target in enumerate(outside.business_complaint_city):
        yield ("routing", "outside", "business_complaint_city", j), target, "targets"


def _clock_references(pack: "Pack") -> Iterator[tuple[Path, str, str]]:
    for i, event in enumerate(pack.terminal_events):
        yield ("terminal_events", i), event, "event types"
    for i, limit in enumerate(pack.limits.resolution):
        for j, replaced in enumerate(limit.replaces):
            yield ("limits", "resolution", i, "replaces", j), replaced, "limits"
    for i, clock in enumerate(pack.clocks):
        for name, triggers in (("start", clock.start), ("stop", clock.stop)):
            for j, trigger in enumerate(triggers):
                yield ("clocks", i, name, j, "event"), trigger.event, "event types"
        if clock.ladder:
            yield ("clocks", i, "ladder"), clock.ladder, "ladders"
