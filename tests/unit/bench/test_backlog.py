"""Whether a curve is one of a backlog that grows, and the search for the highest rate that holds."""

import pytest

from tests.bench.backlog import Sample, answered, growth, highest, holds, less

RATE = 400.0


def curve(
    seen_per_second: float, waiting: int = 80, seconds: int = 10, stall: tuple[float, int] = (0, 0)
) -> list[Sample]:
    """Ten seconds of samples of a pipeline that lets so many a second through, `waiting` behind from the start.
    A stall at a moment holds back so many for that one sample. Every other sample is 30 tickets higher: batches."""
    samples = []
    for number in range(2 * 10 + 1):
        at = number / 2
        held_back = stall[1] if at == stall[0] else 0
        seen = max(0, int(seen_per_second * at) - waiting - held_back - 30 * (number % 2))
        samples.append((at, int(RATE * at), seen))
    return samples


def test_a_backlog_that_goes_up_and_down_does_not_grow() -> None:
    assert abs(growth(curve(RATE), 10)) < RATE * 0.01
    assert holds(curve(RATE), RATE, 10)


def test_a_backlog_that_climbs_grows_however_slowly() -> None:
    assert growth(curve(RATE - 40), 10) == pytest.approx(40, abs=4)
    assert not holds(curve(RATE - 40), RATE, 10)
    assert not holds(curve(RATE - 20), RATE, 10)


def test_a_short_run_is_allowed_its_ripple() -> None:
    climbing = curve(RATE - 14)
    assert holds(climbing, RATE, 5)
    assert not holds(climbing, RATE, 10)


def test_one_stall_is_no_growth() -> None:
    assert holds(curve(RATE, stall=(9.5, 900)), RATE, 10)


def test_a_rate_that_was_not_answered_was_not_held() -> None:
    # Intake itself is too slow: the tickets wait outside and no backlog is to be seen.
    assert answered(curve(RATE), 10) == RATE
    assert not holds(curve(RATE), 500, 10)


def test_filling_the_pipeline_at_the_start_and_draining_it_at_the_end_do_not_count() -> None:
    filling = [(0.0, 0, 0), (0.5, 200, 0), (1.0, 400, 20), *curve(RATE)[3:]]
    draining = [(10.5, 4000, 4000), (11.0, 4000, 4000)]
    assert holds([*filling, *draining], RATE, 10)


def test_without_two_samples_there_is_no_growth() -> None:
    assert growth([(2.0, 5, 1)], 10) == 0.0


@pytest.mark.parametrize("first", [100.0, 300.0, 470.0, 900.0])
async def test_the_search_comes_near_the_true_rate_from_both_sides(first: float) -> None:
    limit = 480.0

    async def trial(rate: float) -> tuple[bool, float]:
        return rate <= limit, min(rate, limit * 0.97)

    found = await highest(trial, first, 8)
    assert found <= limit
    assert found >= limit * (0.9 if first > 200 else 0.5)


async def test_a_search_in_which_nothing_holds_finds_nothing() -> None:
    tried = []

    async def trial(rate: float) -> tuple[bool, float]:
        tried.append(rate)
        return False, 50.0

    assert await highest(trial, 400, 4) == 0
    assert tried[1] < 50
    assert tried == sorted(tried, reverse=True)


def test_the_next_rate_is_below_what_was_asked_and_what_was_answered() -> None:
    assert less(400, 399) == pytest.approx(400 / 1.15)
    assert less(400, 200) < 200
