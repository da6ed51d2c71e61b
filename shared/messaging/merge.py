"""Records of several partitions, given out in the order in which they were sent.

Between topics Kafka knows no order. A reader that is behind gets a ticket's order before its registration, and each
such event is parked: at full speed every event of review and dispatch was, in sla, which cost it 0.4 ms a ticket. So
what came is held until the partitions that are behind have come as far, or have given nothing for a moment. It is a
matter of speed alone: senders' clocks differ and a partition may stand still, and then the versions park what came too
early.
"""

import math
import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping

from aiokafka import TopicPartition

from shared.contracts.topics import BRANCH_REPLIES
from shared.messaging.events import Record

HOLD_SECONDS = 0.5
"""How long the others wait for a partition which is behind and gives nothing."""


class Merge:
    """What came and was not given out yet. `next`: the offset up to which everything of a partition came; `ahead`: the
    partitions that came further than those which are behind."""

    def __init__(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Nothing came yet; it will come from these offsets on."""
        self.next = dict(offsets)
        self.ahead: set[TopicPartition] = set()
        self._held: list[tuple[int, Record]] = []
        self._latest: dict[TopicPartition, int] = {}
        self._waiting_since: float | None = None
        self._patient = True

    def __len__(self) -> int:
        return len(self._held)

    def add(self, records: Iterable[Record]) -> None:
        for record in records:
            partition = TopicPartition(record.topic, record.partition)
            # Within a partition the log's order stands, whatever its senders say of the time. A branch may stamp its
            # commands with any: they wait for nobody, and nobody for them.
            sent = 0 if record.topic == BRANCH_REPLIES else record.timestamp_ms or 0
            moment = self._latest[partition] = max(sent, self._latest.get(partition, 0))
            self.next[partition] = record.offset + 1
            self._held.append((moment, record))
        self._held.sort(key=_moment)

    def due(self, behind: Iterable[TopicPartition]) -> int:
        """How many can be given out, when of these partitions more is known to be there: all that was sent before what
        they gave last. Once they were waited for in vain, all that is held."""
        known = [self._latest.get(each, 0) for each in behind if each.topic != BRANCH_REPLIES]
        horizon = min(known, default=math.inf)
        self.ahead = {partition for partition, moment in self._latest.items() if self._held and moment > horizon}
        self._patient = self._patient or not self._held
        due = bisect_right(self._held, horizon, key=_moment) if self._patient else len(self._held)
        if due or not self._held:
            self._waiting_since = None
            return due
        self._waiting_since = self._waiting_since or time.monotonic()
        self._patient = time.monotonic() - self._waiting_since < HOLD_SECONDS
        return 0 if self._patient else len(self._held)

    def take(self, count: int) -> list[Record]:
        """The earliest of what came."""
        taken, self._held = self._held[:count], self._held[count:]
        return [record for _, record in taken]


def _moment(held: tuple[int, Record]) -> int:
    return held[0]
