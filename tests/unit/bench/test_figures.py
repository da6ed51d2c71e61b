"""What the benchmark computes of what it measured."""

import pytest

from tests.bench.figures import Figure, Spread, Target, milliseconds_a_ticket, percentile, percentiles_ms, spread


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (0.991, 100), (1.0, 100), (0.0, 1), (0.01, 1)]
)
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(share: float, expected: int) -> None:
    assert percentile(range(1, 101), share) == expected


def test_percentiles_of_few_values_are_values_that_occurred() -> None:
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([1.0, 9.0], 0.5) == 1.0
    assert percentile([], 0.5) == 0.0


def test_durations_are_shown_in_milliseconds_whatever_their_order() -> None:
    assert percentiles_ms([0.003, 0.001, 0.002], (0.5,)) == {"p50": 2.0, "max": 3.0}
    assert percentiles_ms([]) == {"p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0}


def test_a_spread_is_median_least_and_most() -> None:
    assert spread([3.0, 1.0, 8.0]) == Spread(3.0, 1.0, 8.0)
    assert spread([1.0, 2.0]).median == 1.5
    with pytest.raises(ValueError, match="no round"):
        spread([])


def test_a_ratio_is_taken_round_by_round() -> None:
    # The second round met a slow machine: both were slow, the ratio held.
    figure = Figure("rate", "/s", [600.0, 60.0, 500.0], [1000.0, 100.0, 1000.0], "bare")
    assert figure.ratios == [0.6, 0.6, 0.5]


def test_a_target_is_judged_by_the_median() -> None:
    least = Target("at least", 0.6, "ratio")
    assert Figure("rate", "/s", [600, 100, 700], [1000, 1000, 1000], "bare", least).met is True
    assert Figure("rate", "/s", [600, 100, 100], [1000, 1000, 1000], "bare", least).met is False
    assert Figure("p99", "ms", [400, 501, 499], target=Target("at most", 500)).met is True
    assert Figure("p99", "ms", [400]).met is None


def test_what_was_not_measured_meets_no_target() -> None:
    assert Figure("p99", "ms", [], target=Target("at most", 500)).met is None
    assert Figure("rate", "/s", [5.0], [0.0], "bare", Target("at least", 1, "ratio")).met is None


def test_cpu_is_shared_among_the_tickets() -> None:
    before, after = {"intake": 1.0, "sla": 2.0}, {"intake": 1.5, "sla": 2.0}
    assert milliseconds_a_ticket(before, after, 1000) == {"intake": 0.5, "sla": 0.0}
    assert milliseconds_a_ticket(before, after, 1000, ["sla"]) == {"sla": 0.0}
    assert milliseconds_a_ticket(before, after, 0)["intake"] == 500.0
