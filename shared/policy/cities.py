"""Which branch a name means: ids, Chinese names with or without 市, English names, division codes, aliases."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from shared.contracts.ticket import Place

if TYPE_CHECKING:
    from shared.policy.model import Branch, Labelled, Pack

CITY_SUFFIX = "市"
ADCODE = re.compile(r"\d{6}")


class CityNames:
    """Every name of every branch and region, and the districts that can be only one branch's."""

    def __init__(self, branches: "Iterable[Branch]", regions: "Iterable[Labelled]") -> None:
        self.names: dict[str, str] = {}
        self.districts: dict[str, str] = {}
        for branch in branches:
            if branch.adcode:
                self.names[branch.adcode] = self.names[branch.adcode[:4]] = branch.id
            self.names.update((text.casefold(), branch.id) for text in _texts(branch))
            self.districts.update((district.casefold(), branch.id) for district in branch.districts)
        for region in regions:
            for text in (region.id, region.label.zh, region.label.en, *region.aliases):
                self.names[text.casefold()] = region.id
        known = [name for name in self.names if name.endswith(CITY_SUFFIX)] + list(self.districts)
        longest_first = sorted(known, key=len, reverse=True)
        self._in_address = re.compile("|".join(map(re.escape, longest_first))) if known else None

    def in_address(self, address: str) -> str | None:
        """The branch whose city or district an address names first."""
        match = self._in_address.search(address) if self._in_address else None
        if match is None:
            return None
        text = match.group().casefold()
        return self.districts.get(text) or self.names.get(text)


def _texts(branch: "Branch") -> list[str]:
    texts = [branch.id, branch.name.zh, branch.name.en, *branch.aliases]
    if branch.kind == "city":
        short = branch.name.zh.removesuffix(CITY_SUFFIX)
        texts += [short, short + CITY_SUFFIX]
    return texts


def resolve_city(pack: "Pack", text: str | None) -> str | None:
    """The branch (or other region) that a text names exactly, or None."""
    if not text:
        return None
    names = pack.city_names.names
    key = text.strip().casefold()
    found = names.get(key)
    if found is None and ADCODE.fullmatch(key):
        found = names.get(key[:4])
    return found


def resolve_place(pack: "Pack", place: Place | None) -> str | None:
    """The branch of a place: its city, or else a district or an address that can be only one branch's."""
    if place is None:
        return None
    city = resolve_city(pack, place.city)
    if city is not None or place.city:
        return city if city in pack.branch_by_id else None
    if place.district:
        district = place.district.strip().casefold()
        found = pack.city_names.districts.get(district) or resolve_city(pack, district)
        if found in pack.branch_by_id:
            return found
    return pack.city_names.in_address(place.address) if place.address else None
