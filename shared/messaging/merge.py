"""Records of several partitions, given out in the order in which they were sent.

Between topics Kafka knows no order. A reader that is behind gets a ticket's order before its registration, and each
such event is parked: at full speed every event of review and dispatch was, in sla, which cost it 0.4 ms a ticket. So
what came is held until the partitions that are behind have come as far, for a moment at most. It is a matter of speed
alone: senders' clocks differ and a partition may stand still, and then the versions park what came too early.
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
    """What came and was not given out yet. `next`: the offset up to which everything of a partition came."""

    def __init__(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Nothing came yet; it will come from these offsets on."""
        self.next = dict(offsets)
        self._held: list[tuple[int, Record]] = []
        self._latest: dict[TopicPartition, int] = {}
        self._held_since: float | None = None

    def __len__(self) -> int:
        return len(self._held)

    def add(self, records: Iterable[Record]) -> None:
        for record in records:
            partition = TopicPartition(record.topic, record.partition)
            # Within a partition the log's order stands, whatever its senders say of the time.
            moment = max(record.timestamp_ms or 0, self._latest.get(partition, 0))
            self._latest[partition] = moment
            self.next[partition] = record.offset + 1
            self._held.append((moment, record))
        self._held.sort(key=_moment)

    def horizon(self, behind: Iterable[TopicPartition]) -> float:
        """Up to which moment everything came, when of these partitions more is still to come."""
        # A branch may stamp its commands with any time; nobody waits for those.
        return min((self._latest.get(each, 0) for each in behind if each.topic != BRANCH_REPLIES), default=math.inf)

    def beyond(self, horizon: float) -> set[TopicPartition]:
        """The partitions that came further than that."""
        return {partition for partition, moment in self._latest.items() if moment > horizon}

    def due(self, horizon: float) -> int:
        """How many can be given out."""
        if self._held_since is not None and time.monotonic() - self._held_since > HOLD_SECONDS:
            return len(self._held)
        return bisect_right(self._held, horizon, key=_moment)

    def take(self, count: int) -> list[Record]:
        """The earliest of what came."""
        taken, self._held = self._held[:count], self._held[count:]
        if taken or not self._held:
            self._held_since = None
        elif self._held_since is None:
            self._held_since = time.monotonic()
        return [record for _, record in taken]


def _moment(held: tuple[int, Record]) -> int:
    return held[0]
