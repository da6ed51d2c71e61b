"""Which branch a name means: ids, Chinese names with or without 市, English names, division codes, aliases."""

import re
from functools import lru_cache

from shared.contracts.ticket import Place
from shared.policy.model import Pack

CITY_SUFFIX = "市"
ADCODE = re.compile(r"\d{6}")


def _tables(pack: Pack) -> tuple[dict[str, str], dict[str, str], re.Pattern[str] | None]:
    """(names → id, districts → id, a search for either in an address), made once for a pack."""
    return _cached_tables(_Key(pack))


class _Key:
    """Lets a pack be a cache key by identity: comparing two packs field by field would cost more than the tables."""

    __slots__ = ("pack",)

    def __init__(self, pack: Pack) -> None:
        self.pack = pack

    def __hash__(self) -> int:
        return id(self.pack)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.pack is other.pack


@lru_cache(maxsize=32)
def _cached_tables(key: _Key) -> tuple[dict[str, str], dict[str, str], re.Pattern[str] | None]:
    names: dict[str, str] = {}
    districts: dict[str, str] = {}
    for branch in key.pack.branches:
        texts = [branch.id, branch.name.zh, branch.name.en, *branch.aliases]
        if branch.kind == "city":
            texts.append(branch.name.zh.removesuffix(CITY_SUFFIX) + CITY_SUFFIX)
            texts.append(branch.name.zh.removesuffix(CITY_SUFFIX))
        if branch.adcode:
            names[branch.adcode] = names[branch.adcode[:4]] = branch.id
        names.update((text.casefold(), branch.id) for text in texts)
        districts.update((district.casefold(), branch.id) for district in branch.districts)
    for region in key.pack.other_regions:
        for text in (region.id, region.label.zh, region.label.en, *region.aliases):
            names[text.casefold()] = region.id
    in_address = [name for name in names if name.endswith(CITY_SUFFIX)] + list(districts)
    search = re.compile("|".join(map(re.escape, sorted(in_address, key=len, reverse=True)))) if in_address else None
    return names, districts, search


def resolve_city(pack: Pack, text: str | None) -> str | None:
    """The branch (or other region) that a text names exactly, or None."""
    if not text:
        return None
    names, _, _ = _tables(pack)
    key = text.strip().casefold()
    found = names.get(key)
    if found is None and ADCODE.fullmatch(key):
        found = names.get(key[:4])
    return found


def resolve_place(pack: Pack, place: Place | None) -> str | None:
    """The branch of a place: its city, or else a district or an address that can be only one branch's."""
    if place is None:
        return None
    city = resolve_city(pack, place.city)
    if city is not None or place.city:
        return city if city in pack.branch_by_id else None
    names, districts, search = _tables(pack)
    if place.district:
        district = place.district.strip().casefold()
        found = districts.get(district) or resolve_city(pack, district)
        if found in pack.branch_by_id:
            return found
    if place.address and search is not None and (match := search.search(place.address)):
        text = match.group().casefold()
        return districts.get(text) or names.get(text)
    return None
