"""The one source of "now". Business time is database time, scaled for rehearsals; nothing else calls `now()`."""

import time
from datetime import UTC, datetime, timedelta


class Clock:
    """Business time in UTC: `origin + (real - origin) * scale`.

    Real time comes from the database (`sync`) and is carried on by the monotonic clock, so that a jump of this
    machine's wall clock moves nothing.
    """

    def __init__(self, scale: float = 1.0, origin: datetime | None = None) -> None:
        self.scale = scale
        self._real = datetime.now(UTC)
        self._monotonic = time.monotonic()
        self._origin = origin or self._real

    def sync(self, real_now: datetime) -> None:
        """Take the database's time as the real time from now on."""
        self._real = real_now.astimezone(UTC)
        self._monotonic = time.monotonic()

    def now(self) -> datetime:
        return self.business(self._real + timedelta(seconds=time.monotonic() - self._monotonic))

    def business(self, real: datetime) -> datetime:
        """The business time at a real moment."""
        if self.scale == 1.0:
            return real
        return self._origin + (real - self._origin) * self.scale

    def real_seconds_until(self, moment: datetime) -> float:
        """Real seconds until a moment of business time; negative when it has passed."""
        return (moment - self.now()).total_seconds() / self.scale
