"""The page that a run writes."""

import pytest

from tests.bench.figures import Cpu, Figure, Findings, Spread, Target
from tests.bench.table import cpu_lines, number, page, row, section, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12_345.6, "12,346"),
        (123.4, "123"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (0.1234, "0.123"),
        (0, "0"),
        (-5.5, "-5.50"),
    ],
)
def test_a_number_has_the_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


def test_a_spread_of_one_round_is_one_number() -> None:
    assert shown(Spread(2.0, 2.0, 2.0)) == "2.00"
    assert shown(Spread(2.0, 1.0, 3.5)) == "2.00 (1.00–3.50)"


def test_a_row_has_value_floor_ratio_target_and_whether_it_was_met() -> None:
    figure = Figure("rate", "/s", [600.0, 650.0], [1000.0, 1000.0], "bare", Target("at least", 0.6, "ratio"))
    assert row(figure) == (
        "rate",
        "625 (600–650) /s",
        "bare: 1,000",
        "0.625 (0.600–0.650)",
        "≥ 0.600 × floor",
        "yes",
    )
    assert row(Figure("p99", "ms", [501.0], target=Target("at most", 500)))[4:] == ("≤ 500", "**no**")
    assert row(Figure("p99", "ms", []))[1:] == ("not measured", "–", "–", "–", "–")


def test_cpu_is_summed_round_by_round() -> None:
    table = cpu_lines(
        [Cpu("one", [{"intake": 1.0, "sla": 2.0}, {"intake": 2.0, "sla": 1.0}]), Cpu("two", [{"sla": 3.0}])]
    )
    assert table[0] == "| CPU ms a ticket | intake | sla | all |"
    assert table[2] == "| one | 1.50 (1.00–2.00) | 1.50 (1.00–2.00) | 3.00 |"
    assert table[3] == "| two | – | 3.00 | 3.00 |"


def test_a_page_has_what_was_run_and_every_part() -> None:
    found = Findings([Figure("rate", "/s", [5.0])], notes=["said plainly"])
    text = page({"cores": 2}, [section("Accept", found), section("Memory", Findings())])
    assert "* cores: 2" in text
    assert "## Accept" in text
    assert "| rate | 5.00 /s |" in text
    assert "* said plainly" in text
    assert text.endswith("## Memory\n")
