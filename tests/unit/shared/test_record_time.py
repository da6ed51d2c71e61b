"""When a record was sent, as it says itself."""

from datetime import UTC, datetime

import pytest

from shared.messaging.events import Record
from shared.messaging.inbox import record_time


@pytest.mark.parametrize("wild", [None, -1, 253_402_300_800_000, 2**62])
def test_a_moment_that_no_calendar_has_is_none(wild: int | None) -> None:
    assert record_time(Record("t", 0, 0, None, (), None, wild)) is None


def test_any_other_is_taken() -> None:
    record = Record("t", 0, 0, None, (), None, 1_795_305_600_000)
    assert record_time(record) == datetime(2026, 11, 22, tzinfo=UTC)
