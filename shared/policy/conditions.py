"""The `when` language of the packs, compiled to closures when a pack is loaded.

A condition maps facts to matchers, and all of them must hold. Matchers: a scalar (equal), a list (any of),
`{present: bool}`, `{missing: true}`, `{under: code}`, `{gt|gte|lt|lte: number}`, `{matches: regex}`, `{contains: x}`
(x or any of a list of x is in the fact, a list), `{not: matcher}`; several keys in one matcher must all hold.
`any:` and `all:` take lists of conditions, `not:` takes one. A fact that is None, empty text or an empty list is
missing, and a missing fact matches nothing but `missing`, `present: false` and `not`.

The facts are handed over as a mapping that answers None for what is not known, never with `KeyError`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from shared.policy.parts import compiled

Facts = Mapping[str, object]
Test = Callable[[Facts], bool]
Matcher = Callable[[object], bool]

COMBINATORS = ("any", "all", "not")

FACTS: dict[str, str] = {
    "channel": "id of the channel",
    "upstream": "the channel is another organisation that can take a duplicate back (SDM-S1)",
    "kind": "ticket kind",
    "category": "category code",
    "business_matter": "the category is a business matter (SDM-R3)",
    "international": "the category is international business or roaming (GDM-L8)",
    "content": "the text, masked",
    "tier": "customer tier",
    "vip": "the tier counts as VIP",
    "club": "the tier is a club tier (GDM-T9)",
    "gold_or_above": "the tier is gold or above (GDM-D10)",
    "brand": "brand",
    "group_rating": "rating of the customer's group",
    "group_rated_a": "the group is rated A or above",
    "home_city": "home city of the number",
    "home_is_branch": "the home city is one of our branches",
    "place_city": "branch of the place, also where only the district is given",
    "same_city": "home city and place are the same branch; missing when either is not known",
    "amount": "yuan",
    "agent_centre": "sub-centre of the agent",
    "flags": "flags of the ticket",
    "classes": "complaint classes of the ticket",
    "urgent": "one of the classes is an urgent one (GDM-D3)",
    "number_prefix": "first three digits of the number complained about",
    "contact_differs": "the contact phone in the text is not the system's (SDM-R6)",
    "contact_other_in_text": "another valid contact phone is in the text",
    "contact_dead_before_submission": "the contact phone was out of service before submission (SDM-R0a)",
    "open_duplicate": "an earlier ticket of the same problem is still in process",
    "call_serial": "none, malformed, mismatch or fits; missing where the channel needs no serial (SDM-R7)",
    "exact_place": "the exact place is given, in a field or in the text",
    "elements_given": "required elements that are given, in a field or in the text",
    "elements_unavailable": "required elements that the customer cannot give",
    "elements_missing": "required elements that are a ground for a return",
    "category_allowed": "the category's own condition holds",
    "round": "which review this is, from 1",
    "returned_by": "branch that returned the order",
    "return_reason": "reason code of that return",
    "network": "finding of the local network: normal or faulty",
    "previous_branch": "branch that held the order before",
    "previous_is_home": "that branch is the home city",
    "outcome": "true satisfaction",
    "attempts": "callback attempts made",
    "reopened_count": "how often the ticket was reopened",
    "handling_hours": "acceptance to closing, elapsed hours",
    "event.unit": "unit inside the branch",
    "event.branch": "branch",
    "event.round": "dispatch or review round",
    "event.marks": "marks of order.progressed",
    "event.automatic": "decided by the checks alone",
    "event.holiday": "the event falls on a day that is not a working day (the caller gives it)",
    "event.contacted_at": "when the customer was spoken to",
    "event.outcome": "outcome of a callback or of the closing",
    "event.reason_code": "coded reason of a return",
    "event.kind": "kind of an approval or of an escalation",
    "event.to": "where an order was raised to",
    "event.reply.satisfaction": "satisfaction in a reply",
    "event.reply.network": "network finding in a reply",
}
"""Every fact a condition may use. `element.<code>` (its given value) is one too, for each element of the pack."""

ELEMENT = "element."


def _error(message: str, *path: str | int) -> PydanticCustomError:
    """An error that the loader can place: `path` leads from the condition to the culprit."""
    return PydanticCustomError("condition", "{message}", {"message": message, "path": list(path)})


def _is_missing(value: object) -> bool:
    return value is None or value == "" or value == () or value == []


class When:
    """A compiled condition. `uses` lists (fact, value or None, path) so that the pack can check the codes."""

    __slots__ = ("parts", "raw", "test", "uses")

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        self.uses: list[tuple[str, object, tuple[str | int, ...]]] = []
        self.parts = self._parts(raw, ())
        self.test: Test = _all_of(tuple(test for _, test in self.parts))

    def __call__(self, facts: Facts) -> bool:
        return self.test(facts)

    def __repr__(self) -> str:
        return f"When({self.raw!r})"

    def looks_at(self, fact: str) -> bool:
        return any(used == fact for used, _, _ in self.uses)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, cls) else cls(value),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda when: when.raw),
        )

    def remaining(self, known: frozenset[str], facts: Facts) -> Test | None:
        """What is still to be tested of other tickets with the same values of the `known` facts; None where the
        condition holds for none of them."""
        open_parts: list[Test] = []
        for names, test in self.parts:
            if not names <= known:
                open_parts.append(test)
            elif not test(facts):
                return None
        return _all_of(tuple(open_parts))

    def _condition(self, raw: object, path: tuple[str | int, ...]) -> Test:
        return _all_of(tuple(test for _, test in self._parts(raw, path)))

    def _parts(self, raw: object, path: tuple[str | int, ...]) -> tuple[tuple[frozenset[str], Test], ...]:
        """The tests that must all hold, each with the facts it asks for."""
        if not isinstance(raw, Mapping):
            raise _error("a condition must be a mapping of facts to matchers", *path)
        parts: list[tuple[frozenset[str], Test]] = []
        for key, value in raw.items():
            used = len(self.uses)
            test = self._part(key, value, (*path, key))
            parts.append((frozenset(fact for fact, _, _ in self.uses[used:]), test))
        return tuple(parts)

    def _part(self, key: str, value: object, here: tuple[str | int, ...]) -> Test:
        if key == "not":
            return _negated(self._condition(value, here))
        if key in COMBINATORS:
            if not isinstance(value, list) or not value:
                raise _error(f"{key} takes a list of conditions", *here)
            inner = tuple(self._condition(part, (*here, index)) for index, part in enumerate(value))
            return _any_of(inner) if key == "any" else _all_of(inner)
        if key not in FACTS and not key.startswith(ELEMENT):
            raise _error(f"unknown fact {key!r}", *here)
        return _on(key, self._matcher(key, value, here))

    def _matcher(self, fact: str, raw: object, path: tuple[str | int, ...]) -> Matcher:
        if isinstance(raw, Mapping):
            if not raw:
                raise _error("an empty matcher matches nothing", *path)
            parts = tuple(self._keyed(fact, key, value, (*path, key)) for key, value in raw.items())
            return parts[0] if len(parts) == 1 else (lambda value: all([part(value) for part in parts]))
        values = _scalars(raw, path)
        self.uses += [(fact, value, path) for value in values]
        if len(values) == 1 and values[0] is True:
            return lambda value: value is True
        if len(values) == 1:
            only = values[0]
            return lambda value: value == only
        wanted = frozenset(values)
        return lambda value: not isinstance(value, tuple | list) and value in wanted

    def _keyed(self, fact: str, key: str, raw: Any, path: tuple[str | int, ...]) -> Matcher:
        if key == "not":
            inner = self._matcher(fact, raw, path)
            return lambda value: not inner(value)
        if key in ("present", "missing"):
            if not isinstance(raw, bool) or (key == "missing" and not raw):
                raise _error("present takes true or false, missing takes true", *path)
            self.uses.append((fact, None, path))
            wanted = raw if key == "missing" else not raw
            return lambda value: _is_missing(value) is wanted
        if key == "under":
            codes = _scalars(raw, path)
            self.uses += [(fact, code, path) for code in codes]
            below = tuple(f"{code}." for code in codes)
            # A dot more on both sides makes "is it" and "is it below" one test.
            return lambda value: isinstance(value, str) and f"{value}.".startswith(below)
        if key == "contains":
            items = frozenset(_scalars(raw, path))
            self.uses += [(fact, item, path) for item in items]
            return lambda value: isinstance(value, tuple | list) and not items.isdisjoint(value)
        self.uses.append((fact, None, path))
        if key == "matches":
            return _matches(raw, path)
        if key in _COMPARE:
            if not isinstance(raw, int | float) or isinstance(raw, bool):
                raise _error(f"{key} takes a number", *path)
            compare = _COMPARE[key]
            return lambda value: value is not None and not isinstance(value, str | bool) and compare(value, raw)
        raise _error(f"unknown matcher {key!r}", *path)


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "gt": lambda value, bound: bool(value > bound),
    "gte": lambda value, bound: bool(value >= bound),
    "lt": lambda value, bound: bool(value < bound),
    "lte": lambda value, bound: bool(value <= bound),
}


def _scalars(raw: object, path: tuple[str | int, ...]) -> list[Any]:
    values = raw if isinstance(raw, list) else [raw]
    if any(value is None or isinstance(value, list | Mapping) for value in values):
        raise _error("a list may hold only text, numbers and booleans; use missing: true for nothing", *path)
    if not values:
        raise _error("an empty list matches nothing", *path)
    return values


def _matches(raw: object, path: tuple[str | int, ...]) -> Matcher:
    if not isinstance(raw, str):
        raise _error("matches takes a regular expression as text", *path)
    try:
        search = compiled(raw).search
    except ValueError as error:
        raise _error(str(error), *path) from None
    return lambda value: isinstance(value, str) and search(value) is not None


def _on(fact: str, matcher: Matcher) -> Test:
    return lambda facts: matcher(facts[fact])


def _negated(test: Test) -> Test:
    return lambda facts: not test(facts)


def _all_of(tests: tuple[Test, ...]) -> Test:
    """A plain loop: `all()` over a generator costs twice as much, and this runs for every rule of every ticket."""
    if len(tests) == 1:
        return tests[0]

    def holds(facts: Facts) -> bool:
        for test in tests:
            if not test(facts):
                return False
        return True

    return holds


def _any_of(tests: tuple[Test, ...]) -> Test:
    def holds(facts: Facts) -> bool:
        for test in tests:
            if test(facts):
                return True
        return False

    return holds
