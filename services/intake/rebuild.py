"""What intake holds because of others' events: the picture of a ticket and the others' entries in its timeline.

The snapshot and the urgency of a ticket depend on which of two services was heard first and are not compared.
"""

from collections.abc import Sequence

from services.intake.consumers import Intake, Pictures
from services.intake.domain import TicketStatus, overall
from services.intake.tables import tickets
from shared.contracts.intake import TicketAnswered, TicketSupplemented, TicketWithdrawn
from shared.contracts.topics import DISPATCH, INTAKE, REVIEW, SLA
from shared.errors import NotYet
from shared.messaging.events import Event

_PICTURE = ("status", "review_status", "order_status", "branch", "outcome", "closed_at")
# What a ticket is before any event. Personal data is not copied.
_SEEDED = {**dict.fromkeys((*_PICTURE, "personal"), "NULL"), "status": "'registered'"}
_OWN_ENDS = {TicketWithdrawn.TYPE: TicketStatus.withdrawn, TicketAnswered.TYPE: TicketStatus.answered}
_ENTRY = "ticket_id, event_id, at, service, type, actor, rules, details"


class IntakeHistory(Intake):
    """Intake's projection, and what intake itself did to a picture (`usecases/change.py`), each in its turn."""

    types = Intake.types | {TicketSupplemented.TYPE, *_OWN_ENDS}

    def apply(self, state: Pictures, event: Event) -> None:
        if event.type not in (TicketSupplemented.TYPE, *_OWN_ENDS):
            super().apply(state, event)
            return
        picture = state.tickets.get(event.subject)
        if picture is None:
            raise NotYet("the ticket is not here yet")
        if event.type in _OWN_ENDS:
            picture.status, picture.closed_at = _OWN_ENDS[event.type], event.time
        else:
            picture.review = TicketStatus.in_review if picture.order else None
            picture.status = overall(picture.status, picture.review, picture.order)
        picture.updated_at = event.time


class IntakeReadState:
    """Seeds, comparisons and replacements of intake, as SQL over the living tables and the schema `rebuild`."""

    history = IntakeHistory()
    topics: Sequence[str] = (INTAKE, REVIEW, DISPATCH, SLA)
    seed = (
        f"INSERT INTO rebuild.tickets ({', '.join(tickets.c.keys())})"  # noqa: S608
        f" SELECT {', '.join(_SEEDED.get(column, column) for column in tickets.c.keys())} FROM tickets"
    )
    lock = "SELECT 1 FROM tickets WHERE ticket_id = ANY(:ids) ORDER BY ticket_id FOR UPDATE"
    versions = (
        "SELECT ticket_id AS subject, 'intake' AS publisher, version FROM tickets"
        " WHERE ticket_id IN (SELECT ticket_id FROM rebuild.tickets)"
        " UNION ALL SELECT subject, publisher, version FROM inbox"
        " WHERE subject IN (SELECT ticket_id FROM rebuild.tickets)"
    )
    differences = (
        "SELECT subject, array_agg(DISTINCT what ORDER BY what) AS what FROM ("  # noqa: S608
        + " UNION ALL ".join(
            f"SELECT subject, '{column}' AS what FROM rebuild.comparable JOIN tickets ON tickets.ticket_id = subject"  # noqa: S608
            " JOIN rebuild.tickets AS built ON built.ticket_id = subject"
            f" WHERE tickets.{column} IS DISTINCT FROM built.{column}"
            for column in _PICTURE
        )
        + " UNION ALL SELECT ticket_id, 'timeline' FROM (({living} EXCEPT ALL {built}) UNION ALL"
        " ({built} EXCEPT ALL {living})) AS entries) AS found GROUP BY subject ORDER BY subject"
    ).format(
        living=f"SELECT {_ENTRY} FROM ticket_timeline JOIN rebuild.comparable ON subject = ticket_id"  # noqa: S608
        " WHERE service <> 'intake'",
        built=f"SELECT {_ENTRY} FROM rebuild.ticket_timeline JOIN rebuild.comparable ON subject = ticket_id"  # noqa: S608
        " WHERE service <> 'intake'",
    )
    replacements: Sequence[str] = (
        "UPDATE tickets SET "  # noqa: S608
        + ", ".join(f"{column} = built.{column}" for column in _PICTURE)
        + " FROM rebuild.tickets AS built WHERE built.ticket_id = tickets.ticket_id AND tickets.ticket_id = ANY(:ids)",
        "DELETE FROM ticket_timeline WHERE ticket_id = ANY(:ids) AND service <> 'intake'",
        f"INSERT INTO ticket_timeline ({_ENTRY}) SELECT {_ENTRY} FROM rebuild.ticket_timeline"  # noqa: S608
        " WHERE ticket_id = ANY(:ids) AND service <> 'intake'",
    )
