"""Events of intake: what customers brought in and what became of it at the front line."""

from typing import ClassVar, Literal

import orjson

from shared.contracts.ticket import Basis, Contract, MaybeText, Text, TicketSnapshot
from shared.contracts.topics import INTAKE


class TicketRegistered(Contract):
    """A ticket was accepted and has its number."""

    TYPE: ClassVar = "ticket.registered"
    TOPIC: ClassVar = INTAKE

    ticket: TicketSnapshot
    actor: str

    def rendered(self, ticket: str) -> bytes:
        """This event as JSON, when its ticket is rendered already (without what is None)."""
        return b'{"ticket":%b,"actor":%b}' % (ticket.encode(), orjson.dumps(self.actor))


class TicketSupplemented(Contract):
    """The front line added what was missing; `ticket` is the whole ticket afterwards."""

    TYPE: ClassVar = "ticket.supplemented"
    TOPIC: ClassVar = INTAKE

    ticket: TicketSnapshot
    changed: tuple[str, ...]
    note: MaybeText = None
    actor: str


class TicketWithdrawn(Contract):
    """The customer takes the complaint back; every open clock ends, no branch works on it any more."""

    TYPE: ClassVar = "ticket.withdrawn"
    TOPIC: ClassVar = INTAKE

    ticket_no: str
    reason: Text
    actor: str


class TicketAnswered(Contract):
    """Solved at first contact (RTE-01): nothing is left for a branch to do."""

    TYPE: ClassVar = "ticket.answered"
    TOPIC: ClassVar = INTAKE

    ticket_no: str
    answer: Text
    basis: Basis
    actor: str


class TicketErased(Contract):
    """The customer's data is gone at intake; every service takes the customer's texts out of what it keeps.

    `cause`: somebody asked for it, or the time that such data is kept is over.
    """

    TYPE: ClassVar = "ticket.erased"
    TOPIC: ClassVar = INTAKE

    ticket_no: str
    cause: Literal["request", "retention"]
    actor: str
