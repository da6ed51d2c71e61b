"""Records of several partitions, given out in the order in which they were sent.

Between topics Kafka knows no order. A reader that is behind gets a ticket's order before its registration, and each
such event is parked: at full speed every event of review and dispatch was, in sla, which cost it 0.4 ms a ticket. So
what came is held until the partitions that are behind have come as far. One that gives nothing for a moment (its leader
may be away) is not waited for again until it gives something. It is a matter of speed alone: senders' clocks differ and
a partition may stand still, and then the versions park what came too early.
"""

import math
import time
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping

from aiokafka import TopicPartition

from shared.contracts.topics import BRANCH_REPLIES
from shared.messaging.events import Record

HOLD_SECONDS = 0.5
"""How long the others wait for a partition which is behind and gives nothing."""


class Merge:
    """What came and was not given out yet. `next`: the offset up to which everything of a partition came; `ahead`: the
    partitions that came further than those which are behind; `silent`: those that were waited for in vain."""

    def __init__(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Nothing came yet; it will come from these offsets on."""
        self.next = dict(offsets)
        self.ahead: set[TopicPartition] = set()
        self._held: list[tuple[int, Record]] = []
        self._latest: dict[TopicPartition, int] = {}
        self._waiting_since: float | None = None
        self.silent: set[TopicPartition] = set()

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
            if self.silent:
                self.silent.discard(partition)
        self._held.sort(key=_moment)

    def due(self, behind: Collection[TopicPartition]) -> int:
        """How many can be given out, when of these partitions more is known to be there: all that was sent before what
        they gave last. Those that were waited for in vain count no more."""
        awaited = {
            each: self._latest.get(each, 0)
            for each in behind
            if each.topic != BRANCH_REPLIES and each not in self.silent
        }
        horizon = min(awaited.values(), default=math.inf)
        due = bisect_right(self._held, horizon, key=_moment)
        if due or not self._held:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = time.monotonic()
        elif time.monotonic() - self._waiting_since >= HOLD_SECONDS:
            self._waiting_since = None
            earliest = _moment(self._held[0])
            self.silent |= {each for each, moment in awaited.items() if moment < earliest}
            return self.due(behind)
        self.ahead = {partition for partition, moment in self._latest.items() if self._held and moment > horizon}
        return due

    def take(self, count: int) -> list[Record]:
        """The earliest of what came."""
        taken, self._held = self._held[:count], self._held[count:]
        return [record for _, record in taken]


def _moment(held: tuple[int, Record]) -> int:
    return held[0]
