"""One batch of events against what the inbox remembers: apply, drop or park each, and release what waited for it.

The version decides: next → apply, seen → drop, ahead → park until the gap fills (also behind a dead letter). An event
whose row is still to come (`NotYet`) is parked too, and tried again after every event applied to its subject.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic
from uuid import UUID

from shared.contracts.erasure import blank
from shared.contracts.intake import TicketErased
from shared.database.connection import Connection
from shared.errors import DomainError, NotYet, Poison
from shared.messaging import erasure, inbox
from shared.messaging.dead_letters import reason_of
from shared.messaging.events import Event, Record, decode
from shared.messaging.inbox import Stream
from shared.messaging.projection import Projection, State
from shared.telemetry import metrics


@dataclass
class Batch(Generic[State]):
    """What one transaction learns and must store. `wanted` are the event types whose data is decoded."""

    projection: Projection[State]
    wanted: frozenset[str]
    versions: dict[Stream, int]
    parked: dict[Stream, dict[int, Record]]
    seen: set[UUID]
    erased: set[UUID]
    applied: int = 0
    released: int = 0
    dead: list[tuple[Record, str]] = field(default_factory=list)
    _changed: dict[Stream, int] = field(default_factory=dict)
    _to_park: dict[tuple[Stream, int], tuple[Record, str]] = field(default_factory=dict)
    _to_unpark: set[tuple[Stream, int]] = field(default_factory=set)
    _commands: list[UUID] = field(default_factory=list)
    _newly_erased: set[UUID] = field(default_factory=set)
    _applied_types: Counter[str] = field(default_factory=Counter)
    _dropped: Counter[str] = field(default_factory=Counter)

    @classmethod
    async def load(
        cls,
        connection: Connection,
        events: Sequence[Event],
        projection: Projection[State],
        wanted: frozenset[str],
    ) -> "Batch[State]":
        """What the inbox knows of these events' subjects."""
        subjects = {event.subject for event in events}
        await inbox.hold(connection, subjects)
        known = await inbox.known(connection, subjects)
        parked = await inbox.parked_for(connection, known.parked) if known.parked else {}
        commands = [event.envelope.event_id for event in events if event.version is None]
        return cls(
            projection,
            wanted,
            versions=known.versions,
            parked={stream: {item.version: item.record for item in items} for stream, items in parked.items()},
            seen=await inbox.seen_commands(connection, commands) if commands else set(),
            erased=known.erased,
        )

    def waiting(self) -> list[Event]:
        """The parked events, decoded: their rows may be needed too. One that no longer decodes is dead."""
        events: list[Event] = []
        for stream, held in self.parked.items():
            for version, record in list(held.items()):
                try:
                    events.append(decode(record, self.wanted))
                except Poison as error:
                    self._give_up(stream, version, record, error)
        return events

    def take(self, state: State, event: Event) -> None:
        """Apply, drop or park one event, and then whatever was waiting for it."""
        if event.version is None:
            if event.envelope.event_id in self.seen:
                self._dropped[event.record.topic] += 1
                return
            self.projection.apply(state, event)
            self.seen.add(event.envelope.event_id)
            self._commands.append(event.envelope.event_id)
            self.applied += 1
            self._applied_types[event.type] += 1
            return
        stream = (event.publisher, event.subject)
        last = self.versions.get(stream, 0)
        if event.version <= last:
            self._dropped[event.record.topic] += 1
        elif event.version > last + 1:
            self._park(stream, event.version, event.record, f"waits for version {last + 1}")
        elif self._try(state, event):
            self._release(state, event.subject)

    def _try(self, state: State, event: Event) -> bool:
        stream, version = (event.publisher, event.subject), event.version or 0
        if event.subject in self.erased and event.data is not None:
            event = event._replace(data=blank(event.data))
        try:
            if event.type in self.projection.types:
                self.projection.apply(state, event)
            if event.type == TicketErased.TYPE:
                self.erased.add(event.subject)
                self._newly_erased.add(event.subject)
        except NotYet as error:
            self._park(stream, version, event.record, str(error))
            return False
        self.versions[stream] = self._changed[stream] = version
        self.applied += 1
        self._applied_types[event.type] += 1
        return True

    def _release(self, state: State, subject: UUID) -> None:
        """Apply parked events of a subject for as long as one of them has its turn."""
        moved = True
        while moved:
            moved = False
            for stream in [stream for stream in self.parked if stream[1] == subject]:
                held = self.parked[stream]
                version = self.versions.get(stream, 0) + 1
                for old in [old for old in held if old < version]:
                    self._unpark(stream, old)
                if (record := held.get(version)) is None:
                    continue
                try:
                    applied = self._try(state, decode(record, self.wanted))
                except (Poison, DomainError) as error:
                    # The fault is its own, not that of the event which released it.
                    self._give_up(stream, version, record, error)
                    continue
                if applied:
                    self._unpark(stream, version)
                    self.released += 1
                    moved = True

    def pass_over(self, state: State, event: Event) -> None:
        """Count an event as seen without applying it, and apply what waited for it."""
        stream = (event.publisher, event.subject)
        self.versions[stream] = self._changed[stream] = event.version or 0
        self._release(state, event.subject)

    def waits_for(self, event: Event) -> str | None:
        """Why this event was parked, or None where it was not."""
        stream, version = (event.publisher, event.subject), event.version or 0
        if version not in self.parked.get(stream, {}):
            return None
        _, reason = self._to_park.get((stream, version), (None, None))
        return reason or f"waits for version {self.versions.get(stream, 0) + 1}"

    def _park(self, stream: Stream, version: int, record: Record, reason: str) -> None:
        if version not in self.parked.setdefault(stream, {}):
            self.parked[stream][version] = record
            self._to_park[stream, version] = (record, reason)
            metrics.events_parked.labels(record.topic).inc()

    def _give_up(self, stream: Stream, version: int, record: Record, error: Exception) -> None:
        self._unpark(stream, version)
        self.dead.append((record, reason_of(error)))

    def _unpark(self, stream: Stream, version: int) -> None:
        self.parked[stream].pop(version, None)
        if self._to_park.pop((stream, version), None) is None:
            self._to_unpark.add((stream, version))

    async def remember(self, connection: Connection, moves: inbox.Moves) -> bool:
        """Store what changed: versions, commands seen, what is parked and no longer parked; and move the positions.
        False when another process moved one meanwhile."""
        moved = await inbox.save(connection, self._changed, moves)
        if self._commands:
            await inbox.remember_commands(connection, self._commands)
        if self._newly_erased:
            await erasure.note_erased(connection, self._newly_erased)
        if self._to_park:
            await inbox.park(connection, self._to_park)
        if late := self.erased & {subject for (_, subject), _ in self._to_park}:
            await erasure.scrub_again(connection, late)
        if self._to_unpark:
            await inbox.unpark(connection, self._to_unpark)
        self._count()
        return moved

    def _count(self) -> None:
        for kind, count in self._applied_types.items():
            metrics.events_applied.labels(kind).inc(count)
        for topic, count in self._dropped.items():
            metrics.events_dropped.labels(topic).inc(count)
