"""How the availability of intake is reckoned: fairly, but never more kindly than it was."""

from datetime import UTC, datetime, timedelta

from tests.faults.faults import Outage
from tests.faults.journal import Attempt, Outcome
from tests.faults.report import availability, unresolved

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def attempt(key: str, began: float, ended: float, outcome: Outcome | None) -> Attempt:
    moment = NOON + timedelta(seconds=began)
    made = Attempt(1, moment, "front_line", "register", key, None, ())
    made.outcome = outcome
    made.ended = None if outcome is None else NOON + timedelta(seconds=ended)
    return made


def outage(began: float, ended: float) -> Outage:
    return Outage(NOON.timestamp() + began, NOON.timestamp() + ended, "PostgreSQL is down")


def test_a_complaint_counts_once_with_all_its_tries() -> None:
    tries = [attempt("a", 0, 1, "unknown"), attempt("a", 2, 3, "ok"), attempt("b", 0, 1, "ok")]
    assert availability(tries, []).complaints == 2
    assert availability(tries, []).share == 1.0


def test_an_answer_after_ten_seconds_is_too_late() -> None:
    late = [attempt("a", 0, 1, "unknown"), attempt("a", 9.5, 10.5, "ok")]
    assert availability(late, []).share == 0.0
    assert availability([attempt("a", 0, 10, "failed")], []).share == 1.0
    assert availability([attempt("a", 0, 0, None)], []).share == 0.0


def test_what_an_outage_touched_is_left_out_of_the_fair_share_only() -> None:
    tries = [attempt("in", 0, 20, "ok"), attempt("after", 31, 50, "ok"), attempt("good", 60, 61, "ok")]
    figures = availability(tries, [outage(5, 30)])
    assert (figures.complaints, round(figures.share, 2)) == (3, 0.33)
    assert (figures.fair_complaints, figures.fair_share) == (2, 0.5)


def test_a_good_answer_long_before_an_outage_still_counts() -> None:
    figures = availability([attempt("a", 0, 1, "ok")], [outage(2, 30)])
    assert figures.fair_complaints == 1


def test_a_key_without_a_certain_end_is_unresolved() -> None:
    tries = [attempt("a", 0, 1, "unknown"), attempt("a", 2, 3, "ok"), attempt("b", 0, 1, "unknown")]
    assert unresolved(tries) == 1
    assert unresolved([attempt("c", 0, 0, None)]) == 1
