"""How often one client may ask: a token bucket a client, and one a peer address for failed authentications.

`shared.http.auth` charges the buckets, `shared.http.limits` puts the standing into the answer. Each process counts for
itself, so that several let a client have its rate as many times. The buckets are bounded in number; the client unheard
for longest is forgotten first, which gives it a full bucket again.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.requests import HTTPConnection

from shared.http.problems import Refused

BUCKETS = 10_000
FAILURES_PER_SECOND = 1.0
FAILURES_AT_ONCE = 20
STANDING = "gongdan.rate"
"""Where in the ASGI scope the answer's rate limit fields wait for the guard."""


class Buckets:
    """Token buckets by name: `burst` tokens at once, then `per_second`. Times are monotonic seconds."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = 1.0 / per_second
        self._depth = burst * self._interval
        self._clock = clock
        # The moment at which each bucket is full again: all that a token bucket needs to know.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, name: str) -> tuple[int, float]:
        """Take a token: how many are left, and 0; or, when there is none, 0 and the seconds until there is one."""
        now = self._clock()
        full_at = max(self._full_at.pop(name, now), now)
        left = self._depth - (full_at - now)
        # A millionth of a token forgives what adding up floats loses.
        if left < self._interval * (1 - 1e-6):
            self._full_at[name] = full_at
            return 0, self._interval - left
        self._full_at[name] = full_at + self._interval
        if len(self._full_at) > BUCKETS:
            self._full_at.popitem(last=False)
        return int(left / self._interval + 1e-6) - 1, 0.0

    def __len__(self) -> int:
        return len(self._full_at)


class RateLimits:
    """The limits of one process. `per_second` 0 switches the clients' limit off; `burst` 0 means two seconds' worth.

    Answers carry `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10).
    """

    def __init__(self, per_second: float, burst: int = 0, failures_at_once: int = FAILURES_AT_ONCE) -> None:
        burst = burst or max(1, math.ceil(2 * per_second))
        self._clients = Buckets(per_second, burst) if per_second else None
        self._failures = Buckets(FAILURES_PER_SECOND, failures_at_once)
        window = max(1, math.ceil(burst / per_second)) if per_second else 0
        self._policy = (b"ratelimit-policy", b'"client";q=%d;w=%d' % (burst, window))
        self._next = max(1, math.ceil(1 / per_second)) if per_second else 0

    def admit(self, http: HTTPConnection, client: str) -> None:
        """Charge a known client for this request. Raises `Refused` (429) when it asks too often."""
        if self._clients is None:
            return
        left, wait = self._clients.take(client)
        after = math.ceil(wait) if wait else self._next
        http.scope[STANDING] = [self._policy, (b"ratelimit", b'"client";r=%d;t=%d' % (left, after))]
        if wait:
            raise _too_often("this client sends requests faster than it may", after)

    def failed(self, http: HTTPConnection) -> None:
        """Charge a peer for a failed authentication. Raises `Refused` (429) when there are too many."""
        _, wait = self._failures.take(http.client.host if http.client else "")
        if wait:
            raise _too_often("too many failed authentications from this address", math.ceil(wait))


def _too_often(detail: str, seconds: int) -> Refused:
    return Refused(429, "rate_limited", detail, {"Retry-After": str(seconds)})
