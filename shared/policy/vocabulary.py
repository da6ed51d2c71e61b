"""What the pack knows and what it does not: the checks behind a 422, and look-ups of coded things."""

from collections.abc import Iterable, Mapping
from functools import lru_cache

from shared.contracts.ticket import Basis, ClassMark, Element
from shared.policy.cities import resolve_city
from shared.policy.model import Pack
from shared.policy.results import Unknown
from shared.policy.rules import ReturnReason

SHOWN = 40


def known(
    pack: Pack,
    *,
    channel: str,
    kind: str,
    category: str,
    home_city: str,
    place_city: str | None,
    tier: str,
    brand: str | None,
    flags: Iterable[str],
    elements: Mapping[str, Element],
) -> list[Unknown]:
    """Everything in a new ticket that this pack has no word for; empty when all is known."""
    unknown: list[Unknown] = []

    def expect(field: str, value: str, codes: Iterable[str]) -> None:
        if value not in codes:
            unknown.append(Unknown(field, value, _nearest(value, codes)))

    expect("channel", channel, pack.channel_by_id)
    expect("kind", kind, pack.kind_by_id)
    expect("category", category, pack.category_by_code)
    expect("customer.tier", tier, pack.tier_by_id)
    if brand is not None:
        expect("customer.brand", brand, pack.brand_by_id)
    if resolve_city(pack, home_city) is None:
        unknown.append(Unknown("customer.home_city", home_city, _cities(pack)))
    if place_city is not None and resolve_city(pack, place_city) is None:
        unknown.append(Unknown("place.city", place_city, _cities(pack)))
    for flag in flags:
        expect("flags", flag, pack.flag_by_id)
    for code, value in elements.items():
        spec = pack.element_by_code.get(code)
        if spec is None:
            unknown.append(Unknown("elements", code, _nearest(code, pack.element_by_code)))
        elif spec.values and isinstance(value, str) and value.strip().lower() not in spec.values:
            unknown.append(Unknown(f"elements.{code}", value, list(spec.values)))
        elif spec.is_city and isinstance(value, str) and value and resolve_city(pack, value) is None:
            unknown.append(Unknown(f"elements.{code}", value, _cities(pack)))
    return unknown


def _cities(pack: Pack) -> list[str]:
    return [*pack.branch_by_id, *pack.region_ids]


def _nearest(value: str, codes: Iterable[str]) -> list[str]:
    """The codes, those that share the beginning first; a long list is cut."""
    head = value.split(".", 1)[0]
    ranked = sorted(codes, key=lambda code: (not code.startswith(head), code)) if "." in value else list(codes)
    return ranked[:SHOWN]


def return_reason(pack: Pack, code: str) -> ReturnReason | None:
    return pack.reason_by_code.get(code)


def class_mark(pack: Pack, code: str) -> ClassMark:
    """The mark of a class that a service adds itself, such as `raised` or `repeat`. Raises: `KeyError`."""
    return ClassMark(code=code, rule=pack.class_by_code[code].rule)


def basis_of(pack: Pack, *rules: str) -> Basis:
    """The basis of a decision by these rules, each named once."""
    return _basis(pack.id, pack.version, rules)


@lru_cache(maxsize=1024)
def _basis(pack: str, version: str, rules: tuple[str, ...]) -> Basis:
    """Immutable, and few of them come again and again."""
    return Basis(pack=pack, version=version, rules=tuple(dict.fromkeys(rules)))
