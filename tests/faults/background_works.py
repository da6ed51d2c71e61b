"""What the failpoint tests give the background work of a service: audit trails to seal, and tickets to forget."""

from shared.contracts.envelope import Envelope
from shared.contracts.intake import TicketErased
from shared.database.audit import verify
from shared.database.engine import Database
from shared.http.keys import Role
from shared.ids import new_id
from shared.messaging.erasure import scrubbed
from tests.faults.works import Reviewed, works
from tests.support.snapshots import snapshot


class Sealed(Reviewed):
    """Reviews, whose audit trail gets its seals."""

    async def settled(self) -> bool:
        return await super().settled() and await self.value(
            "SELECT (SELECT count(*) FROM audit_trail) = (SELECT coalesce(sum(cardinality(ids)), 0) FROM audit_seals)"
        )

    async def check(self) -> None:
        """One chain without a fork or a hole, and each row under one seal."""
        await super().check()
        held = "SELECT unnest(ids) AS id FROM audit_seals"
        assert await self.value(f"SELECT count(*) = count(DISTINCT id) FROM ({held}) AS held")
        database = Database(self.environment["REVIEW_DATABASE_URL"], pool_size=1)
        report = await database.read(verify)
        await database.close()
        assert (report.intact, report.unsealed) == (True, 0)


class Erased(Reviewed):
    """Tickets that are reviewed and then erased: afterwards no text of theirs is left in the plumbing."""

    async def give(self) -> None:
        await super().give()
        ticket = self.given[-1]
        event = TicketErased(ticket_no=f"T20261122-{ticket.int % 10**7:07d}", cause="request", actor="supervisor:test")
        envelope = Envelope(new_id(), "/gongdan/intake", event.TYPE, ticket, snapshot().accepted_at, 2)
        await self.send(event.model_dump_json().encode(), envelope.headers(), ticket)

    async def effects(self) -> int:
        scrubbed_now: int = await self.value(
            "SELECT count(*) FROM erased_subjects WHERE scrubbed_at IS NOT NULL AND subject = ANY($1)", self.given
        )
        return scrubbed_now if await super().effects() == len(self.given) else -1

    def shown(self, kind: str, payload: bytes) -> bytes:
        """What went out before the erasure still holds the texts in the log; they are compared without."""
        return scrubbed(kind, payload)

    async def check(self) -> None:
        await super().check()
        left = "SELECT count(*) FROM outbox WHERE subject = ANY($1) AND position(convert_to($2, 'UTF8') IN payload) > 0"
        assert await self.value(left, self.given, snapshot().content) == 0
        left = "SELECT count(*) FROM reviews WHERE ticket_id = ANY($1) AND snapshot->>'content' <> ''"
        assert await self.value(left, self.given) == 0


SEALED = works("review", Sealed, Role.reviewer)
ERASED = works("review", Erased, Role.reviewer)
