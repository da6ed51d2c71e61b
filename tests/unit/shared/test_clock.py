"""Business time: the database's, carried on by the monotonic clock, scaled for rehearsals."""

from datetime import UTC, datetime, timedelta

import pytest

from shared.clock import Clock

ORIGIN = datetime(2026, 11, 22, tzinfo=UTC)


def test_an_hour_passes_in_a_second_at_scale_3600() -> None:
    clock = Clock(3600, ORIGIN)
    assert clock.business(ORIGIN + timedelta(seconds=1)) == ORIGIN + timedelta(hours=1)


def test_unscaled_business_time_is_real_time() -> None:
    assert Clock().business(ORIGIN) == ORIGIN


def test_the_clock_follows_the_database_not_this_machine() -> None:
    clock = Clock()
    clock.sync(ORIGIN)
    assert timedelta(0) <= clock.now() - ORIGIN < timedelta(seconds=1)


def test_real_seconds_until_a_business_moment() -> None:
    clock = Clock(3600, ORIGIN)
    clock.sync(ORIGIN)
    assert clock.real_seconds_until(ORIGIN + timedelta(hours=10)) == pytest.approx(10, abs=0.5)
