"""Acceptance of one complaint over HTTP: what is refused at once, and the way into a group commit."""

from collections.abc import Callable
from dataclasses import dataclass

from services.intake.schemas import RegisterTicket
from services.intake.usecases.desk import Desk
from services.intake.usecases.register import Registration, registration_of
from shared.database.group_commit import GroupCommit
from shared.http.auth import Principal
from shared.http.problems import busy
from shared.telemetry import metrics


@dataclass(frozen=True, slots=True)
class Accept:
    """`overloaded` tells whether too many events wait for the broker."""

    desk: Desk
    registrations: GroupCommit[Registration, bytes]
    overloaded: Callable[[], bool]

    async def __call__(self, principal: Principal, request: RegisterTicket, body: bytes, key: str | None) -> bytes:
        """The answer, `TicketAccepted` as JSON, after the commit. Raises `DomainError`, `Transient` or `Refused`."""
        accepted = registration_of(self.desk, request, principal, body, key)
        self.refuse_when_overloaded()
        answer = await self.registrations.submit(accepted)
        metrics.tickets_accepted.inc()
        return answer

    def refuse_when_overloaded(self) -> None:
        if self.overloaded():
            raise busy("too many events wait for the broker; try again later", "backlog_full")
