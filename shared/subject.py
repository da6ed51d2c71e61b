"""What events are about: a thing with a version that counts its events 1, 2, 3 … without holes at its publisher."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One event waiting for the outbox. `topic` is set only where it is not the event's own."""

    event: BaseModel
    version: int
    time: datetime
    topic: str | None = None


@dataclass(slots=True)
class Subject:
    """Base of the rows that publish. Its row must be locked from the first `record` to the commit."""

    ticket_id: UUID
    version: int = 0
    pending: list[Outgoing] = field(default_factory=list)

    def record(self, event: BaseModel, time: datetime) -> None:
        """Count the event and keep it until `Transaction.publish_pending`."""
        self.version += 1
        self.pending.append(Outgoing(event, self.version, time))
