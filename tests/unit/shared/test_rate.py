"""Token buckets: what a client may send at once, how they fill again, and that they stay few."""

from types import SimpleNamespace

import pytest

from shared.http import rate
from shared.http.problems import Refused
from shared.http.rate import STANDING, Buckets, RateLimits


class Time:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def http(host: str = "192.0.2.1") -> SimpleNamespace:
    return SimpleNamespace(scope={}, client=SimpleNamespace(host=host))


def test_a_full_bucket_holds_its_burst_and_then_says_how_long_to_wait() -> None:
    buckets = Buckets(10, 5, Time())
    assert [buckets.take("a")[0] for _ in range(5)] == [4, 3, 2, 1, 0]
    left, wait = buckets.take("a")
    assert left == 0
    assert wait == pytest.approx(0.1)


def test_a_bucket_fills_at_its_rate_and_never_over_its_burst() -> None:
    time = Time()
    buckets = Buckets(10, 5, time)
    for _ in range(6):
        buckets.take("a")
    time.now += 0.3
    assert [buckets.take("a")[1] > 0 for _ in range(4)] == [False, False, False, True]
    time.now += 1000
    assert [buckets.take("a")[1] > 0 for _ in range(6)] == [False] * 5 + [True]


def test_asking_in_vain_does_not_put_the_next_token_off() -> None:
    time = Time()
    buckets = Buckets(1, 1, time)
    buckets.take("a")
    for _ in range(100):
        assert buckets.take("a")[1] > 0
    time.now += 1
    assert buckets.take("a")[1] == 0


def test_clients_do_not_share_a_bucket() -> None:
    buckets = Buckets(1, 1, Time())
    assert buckets.take("a")[1] == 0
    assert buckets.take("b")[1] == 0
    assert buckets.take("a")[1] > 0


def test_the_buckets_are_bounded_and_the_one_in_use_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "BUCKETS", 100)
    buckets = Buckets(1, 1, Time())
    buckets.take("a")
    for number in range(1000):
        buckets.take(str(number))
        assert buckets.take("a")[1] > 0
    assert len(buckets) == 100


def test_the_answer_tells_the_client_where_it_stands() -> None:
    limits, request = RateLimits(2, 4), http()
    limits.admit(request, "a")  # type: ignore[arg-type]
    assert request.scope[STANDING] == [
        (b"ratelimit-policy", b'"client";q=4;w=2'),
        (b"ratelimit", b'"client";r=3;t=1'),
    ]
    for _ in range(3):
        limits.admit(request, "a")  # type: ignore[arg-type]
    with pytest.raises(Refused) as refused:
        limits.admit(request, "a")  # type: ignore[arg-type]
    assert (refused.value.status_code, refused.value.code) == (429, "rate_limited")
    assert refused.value.headers == {"Retry-After": "1"}
    assert request.scope[STANDING][1] == (b"ratelimit", b'"client";r=0;t=1')


def test_a_burst_not_given_is_two_seconds_worth() -> None:
    request = http()
    RateLimits(3000).admit(request, "a")  # type: ignore[arg-type]
    assert request.scope[STANDING][0] == (b"ratelimit-policy", b'"client";q=6000;w=2')


def test_a_rate_of_0_limits_nobody_and_says_nothing() -> None:
    limits, request = RateLimits(0), http()
    for _ in range(10_000):
        limits.admit(request, "a")  # type: ignore[arg-type]
    assert request.scope == {}


def test_failed_authentications_are_limited_by_address_whatever_the_clients_rate() -> None:
    limits = RateLimits(0)
    for _ in range(rate.FAILURES_AT_ONCE):
        limits.failed(http())  # type: ignore[arg-type]
    with pytest.raises(Refused):
        limits.failed(http())  # type: ignore[arg-type]
    limits.failed(http("192.0.2.2"))  # type: ignore[arg-type]
