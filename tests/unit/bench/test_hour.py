"""What the hour's run says of dead rows."""

from typing import Any

from deploy.local.state import SERVICES
from tests.bench.hour import BIG, grown, worst_dead


def look(live: int, dead: int) -> dict[str, Any]:
    return {service: [] for service in SERVICES} | {"sla": [{"table": "clocks", "live": live, "dead": dead}]}


def test_the_worst_moment_of_a_large_table_counts() -> None:
    curve = [look(BIG, 0), look(BIG, BIG), look(BIG, BIG // 3)]
    assert worst_dead(curve) == (0.5, "sla.clocks")


def test_a_table_of_ten_rows_may_have_any_share() -> None:
    assert worst_dead([look(1, 9)]) == (0.0, "none")


def test_growth_counts_from_the_first_look_and_knows_tables_that_came_later() -> None:
    curve = [look(10, 0), look(30, 0)]
    curve[1]["sla"].append({"table": "escalations", "live": 5, "dead": 0})
    assert grown(curve, "sla", "live") == 25
