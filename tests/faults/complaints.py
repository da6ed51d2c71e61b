"""Complaints with personal data that can be found again: every phone, name and identity number is a canary."""

import random
from dataclasses import dataclass
from typing import Any

from tests.support.tickets import complaint

CITIES = ("jinan", "qingdao", "zibo", "weifang", "yantai", "linyi", "jining", "dezhou", "heze", "rizhao")
SURNAMES = "欧阳 上官 司徒 东方 诸葛 夏侯 皇甫 尉迟".split()
# Rare enough that no text of ours holds two of them in a row.
GIVEN = "翀翊珺璟瑄甯晗旻昕昱曦暄潇澍瀚烨煜熠琬琮瑾璇璐睿砚祎禛稷筠箐"
HALL_SHARE = 0.1
DEFICIENT_SHARE = 0.08
SAME_CUSTOMER_SHARE = 0.06
VIP_SHARE = 0.05


@dataclass(frozen=True)
class Complaint:
    """A body for `POST /v1/tickets`, and the personal data in it that may not appear anywhere else."""

    body: dict[str, Any]
    canaries: tuple[str, ...]
    deficient: bool


class Complaints:
    """An endless row of complaints, decided by the seed. Phones are of a range nobody else in these tests uses."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(f"complaints {seed}")
        self._number = 0
        self._earlier: list[Complaint] = []

    def next(self) -> Complaint:
        chance = self._chance
        if self._earlier and chance.random() < SAME_CUSTOMER_SHARE:
            return chance.choice(self._earlier[-200:])
        self._number += 1
        phone, name, identity = self._person()
        city = chance.choice(CITIES)
        deficient = chance.random() < DEFICIENT_SHARE
        if deficient:
            changes: dict[str, Any] = {"elements": {}, "content": f"信号不好,{name},{phone}", "place": {"city": city}}
        elif chance.random() < HALL_SHARE:
            changes = {"category": "service.hall", "elements": {}, "place": {"city": city}}
            changes["content"] = f"{name}(身份证{identity})在营业厅排队两小时无人理会,请回电{phone}。"
        else:
            where = {"city": city, "address": f"第{self._number}号楼"}
            changes = {"place": where, "content": f"我是{name},身份证{identity},家里没有信号,请打{phone}。"}
        tier = "vip" if chance.random() < VIP_SHARE else "ordinary"
        customer = {"phone": phone, "name": name, "home_city": city, "tier": tier}
        made = Complaint(complaint(customer=customer, **changes), (phone, name, identity), deficient)
        self._earlier.append(made)
        return made

    def _person(self) -> tuple[str, str, str]:
        """Phone, name and identity number of a customer who does not exist."""
        number, base = self._number, len(GIVEN)
        surname = SURNAMES[number % len(SURNAMES)]
        given = GIVEN[number // len(SURNAMES) % base] + GIVEN[number // (len(SURNAMES) * base) % base]
        return (
            f"139{number:08d}",
            surname + given,
            f"3701021990{1 + number % 12:02d}{number % 28 + 1:02d}{number % 1000:03d}X",
        )


SUPPLEMENT = {"elements": {"location": "泉城路 1 号", "since": "昨天"}, "place": {"address": "泉城路"}}
