"""How long a reader rests after a batch, so that the next one holds more.

A batch of one event costs nearly as much as one of ten: about ten round trips to the database here, and as many
wake-ups there. Without a rest all processors are used up by small batches at any rate of tickets. A rest in proportion
to the work follows the load by itself: where the machine is busy a batch takes longer, and the next one grows. It
shrinks with the size of the batch, for then most of the work is the events' own. Who has rested takes at once what
comes (docs/decisions/0015).
"""

from typing import NamedTuple

# With so many events in a batch a larger one would hardly be cheaper.
ENOUGH = 256


class Pace(NamedTuple):
    """`for_work`: seconds of rest for each second of work; `at_most`: seconds."""

    for_work: float
    at_most: float

    def rest_after(self, seconds: float, events: int) -> float:
        """The rest (real seconds) after a batch that took so long for so many events."""
        return min(self.for_work * seconds, self.at_most) * max(0.0, 1 - events / ENOUGH)


ON_THE_WAY = Pace(for_work=4.0, at_most=0.07)
"""For a service through which a ticket passes to its branch."""
BESIDE = Pace(for_work=12.0, at_most=0.25)
"""For one that looks on: nobody waits for what it makes of an event."""
