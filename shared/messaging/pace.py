"""How long a reader rests after a batch, so that the next one holds more.

A batch of one event costs nearly as much as one of ten: about ten round trips to the database here, and as many
wake-ups there. Without a rest all processors are used up by small batches at any rate of tickets. A rest in proportion
to the work follows the load by itself: where the machine is busy a batch takes longer, and the next one grows. It
shrinks with the size of the batch, for then most of the work is the events' own. Who has rested takes at once what
comes (docs/decisions/0015).

Measured, CPU of everything a ticket, a fixed rest of 20 ms → this one: 27 → 20 ms at 50 tickets a second,
15 → 10 at 126, 8.7 → 6.2 at 250; from POST to the branch's topic p99 220 ms at 126 a second, 268 at 250.
"""

REST_FOR_WORK = 4.0
REST_AT_MOST_SECONDS = 0.07
# With so many events in a batch a larger one would hardly be cheaper.
ENOUGH = 256


def rest_after(seconds: float, events: int) -> float:
    """The rest (real seconds) after a batch that took so long for so many events."""
    return min(REST_FOR_WORK * seconds, REST_AT_MOST_SECONDS) * max(0.0, 1 - events / ENOUGH)
