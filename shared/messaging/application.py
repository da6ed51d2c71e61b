"""How records take effect: the one way, used by the consumer and by an operator's redrive.

What must stay true:
* versions, effects, what is parked and what is dead are stored in the caller's one transaction;
* a request for replay is carried out before the transaction that remembers it, in short transactions of its own: a
  crash in between repeats it, and a repeat marks again what is marked already.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Generic

from shared.contracts.control import ReplayRequested
from shared.contracts.intake import TicketErased
from shared.contracts.topics import producers_of
from shared.database.engine import Database, Transaction
from shared.messaging import dead_letters, inbox, outbox
from shared.messaging.batch import Batch
from shared.messaging.events import Event, Record, decode
from shared.messaging.outbox import Selection
from shared.messaging.projection import Projection, State

log = logging.getLogger(__name__)

NOWHERE: inbox.Moves = {}


class OwnershipLost(Exception):
    """Another process moved this partition on; its batch is dropped, versions make the repeat harmless."""


class Applier(Generic[State]):
    """Applies events to what one service knows."""

    def __init__(self, service: str, projection: Projection[State], database: Database) -> None:
        self.projection = projection
        self.database = database
        self._service = service
        self._wanted = projection.types | {ReplayRequested.TYPE, TicketErased.TYPE}

    def decode(self, record: Record) -> Event:
        """Raises `Poison`."""
        return decode(record, self._wanted)

    async def apply(
        self, transaction: Transaction, events: Sequence[Event], moves: inbox.Moves = NOWHERE
    ) -> Batch[State]:
        """Apply, drop or park each event, release what waited, and move the positions.

        Raises what a handler raises, and `OwnershipLost` when another process moved a position; nothing is stored.
        """
        batch = await Batch.load(transaction.connection, events, self.projection, self._wanted)
        state = await self.projection.load(transaction, [*events, *batch.waiting()])
        for event in events:
            batch.take(state, event)
        await self._store(transaction, batch, state, moves)
        return batch

    async def pass_over(self, transaction: Transaction, event: Event) -> Batch[State]:
        """Give an event's effect up: its version counts as seen, and what waited behind it is applied."""
        batch = await Batch.load(transaction.connection, [event], self.projection, self._wanted)
        state = await self.projection.load(transaction, batch.waiting())
        batch.pass_over(state, event)
        await self._store(transaction, batch, state, NOWHERE)
        return batch

    async def _store(self, transaction: Transaction, batch: Batch[State], state: State, moves: inbox.Moves) -> None:
        await self.projection.save(transaction, state)
        if not await batch.remember(transaction.connection, moves):
            raise OwnershipLost
        for record, reason in batch.dead:
            await dead_letters.bury(transaction, self._service, record, reason)

    async def answer_replays(self, events: Sequence[Event], alive: Callable[[], None]) -> None:
        """Send again what other services lost, for the requests not yet answered; `alive` is called now and then."""
        requests = [
            event
            for event in events
            if event.type == ReplayRequested.TYPE and self._service in producers_of(event.data.topic)
        ]
        if not requests:
            return
        streams = [(event.publisher, event.subject) for event in requests]
        known = await self.database.read(lambda connection: inbox.versions(connection, streams))
        for event in requests:
            if (event.publisher, event.subject) in known:
                continue
            request: ReplayRequested = event.data
            count = 0
            async for chunk in outbox.replay(self.database, Selection((request.topic,), request.since)):
                count += chunk.marked
                alive()
            log.warning("replay", extra={"topic": request.topic, "count": count, "role": request.requested_by})
