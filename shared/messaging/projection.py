"""What a service does with a batch of events; `consumer.py` drives it inside one transaction.

state = await projection.load(transaction, events)     all touched rows at once, locked in id order
projection.apply(state, event)                         pure; raises NotYet, DomainError or Poison, changing nothing
await projection.save(transaction, state)              all changes at once, and the events they cause
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from shared.database.engine import Database, Transaction
from shared.messaging.events import Event

State = TypeVar("State")


class Projection(Protocol[State]):
    """The events a service consumes, as one state a batch."""

    @property
    def types(self) -> frozenset[str]:
        """The event types that mean something here; others only move the version on."""
        ...

    async def load(self, transaction: Transaction, events: Sequence[Event]) -> State:
        """Every row that these events touch."""
        ...

    def apply(self, state: State, event: Event) -> None:
        """Carry one event out on the state. Raises `NotYet` when its row is still to come."""
        ...

    async def save(self, transaction: Transaction, state: State) -> None:
        """Write what changed."""
        ...

    async def on_new_log(self, database: Database, alive: Callable[[], None]) -> None:
        """The log is another one: put again into the outbox what outside readers may have lost.

        In short transactions of its own, before the new positions are stored: a crash in between repeats it. `alive`
        is called now and then.
        """
        ...
