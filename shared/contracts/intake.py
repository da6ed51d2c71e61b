"""Events of intake: what customers brought in and what became of it at the front line."""

from typing import ClassVar

from shared.contracts.ticket import Basis, Contract, TicketSnapshot
from shared.contracts.topics import INTAKE


class TicketRegistered(Contract):
    """A ticket was accepted and has its number."""

    TYPE: ClassVar = "ticket.registered"
    TOPIC: ClassVar = INTAKE

    ticket: TicketSnapshot
    actor: str


class TicketSupplemented(Contract):
    """The front line added what was missing; `ticket` is the whole ticket afterwards."""

    TYPE: ClassVar = "ticket.supplemented"
    TOPIC: ClassVar = INTAKE

    ticket: TicketSnapshot
    changed: tuple[str, ...]
    note: str | None = None
    actor: str


class TicketWithdrawn(Contract):
    """The customer takes the complaint back; every open clock ends, no branch works on it any more."""

    TYPE: ClassVar = "ticket.withdrawn"
    TOPIC: ClassVar = INTAKE

    ticket_no: str
    reason: str
    actor: str


class TicketAnswered(Contract):
    """Solved at first contact (RTE-01): nothing is left for a branch to do."""

    TYPE: ClassVar = "ticket.answered"
    TOPIC: ClassVar = INTAKE

    ticket_no: str
    answer: str
    basis: Basis
    actor: str
