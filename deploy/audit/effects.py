"""The invariant of effects (4): each event published, and shown exactly once by each subscriber.

Effects are counted, not the inbox's rows: entries of the timeline, rounds, callbacks, escalations, members. A ticket
with a parked or dead event is left out: what it waits for is the matter of invariant 8. More effects than causes are
never excused by that.
"""

from deploy.audit.delivery import LOG_MARGIN
from deploy.audit.evidence import Evidence
from deploy.audit.findings import Findings
from services.intake.consumers import Intake
from shared.contracts.registry import MODELS


def effects_are_single(evidence: Evidence) -> Findings:
    """4. Every event is published, and each subscriber shows exactly one effect of it."""
    found = Findings(evidence.count("SELECT count(*) FROM outbox"))
    for line in evidence.scope.stuck:
        found.breach(line)
    own = "o.service = 'intake' AND o.stream = 'own'"
    found.all_of(
        evidence,
        "not exactly one entry in the timeline",
        "SELECT o.event_id AS event, o.type, o.subject AS ticket, count(t.event_id) AS entries FROM outbox AS o"
        f" LEFT JOIN timeline AS t ON t.event_id = o.event_id WHERE {own} GROUP BY o.event_id HAVING entries <> 1",
    )
    _escalations(evidence, found)
    if not found.at_rest(evidence, "the log, and the effects in other services"):
        return found
    found.all_of(
        evidence,
        "published, and not on its topic",
        "SELECT o.service, o.topic, o.event_id AS event FROM outbox AS o WHERE o.stream IS NOT NULL"
        " AND o.published > :since AND o.published > :margin + coalesce((SELECT max(p.first_at) FROM partitions"
        " AS p WHERE p.topic = o.topic AND p.first > 0), 0)"
        " AND NOT EXISTS (SELECT 1 FROM records AS r WHERE r.event_id = o.event_id AND r.topic = o.topic)",
        since=evidence.scope.log_from + LOG_MARGIN,
        margin=LOG_MARGIN,
    )
    _timeline(evidence, found)
    _rows_of_others(evidence, found)
    return found


def _escalations(evidence: Evidence, found: Findings) -> None:
    """Each escalation reaches a branch at most once: by kind and rung, for one that found no order in hand tells nobody
    and would hide a double of another. Holds in motion too: dispatch is read before sla, so every cause is there."""
    found.all_of(
        evidence,
        "dispatch told a branch of more escalations than sla raised",
        "SELECT x.subject AS ticket, x.kind, x.rung, count(*) AS told, (SELECT count(*) FROM outbox AS e"
        " WHERE e.type = 'escalation.raised' AND e.subject = x.subject AND e.service = 'sla' AND e.stream = 'own'"
        " AND e.kind = x.kind AND e.rung = coalesce(x.rung, e.rung)) AS raised FROM outbox AS x"
        " WHERE x.service = 'dispatch' AND x.stream = 'own' AND x.type IN ('order.escalated', 'order.urged')"
        " AND x.kind IS NOT NULL AND born(x.subject) >= :kept GROUP BY x.subject, x.kind, x.rung HAVING told > raised",
        kept=evidence.scope.kept_from,
    )


def _timeline(evidence: Evidence, found: Findings) -> None:
    consumed = ", ".join(f"'{name}'" for name in sorted(Intake.types))
    known = ", ".join(f"'{name}'" for name in sorted(MODELS))
    found.all_of(
        evidence,
        "not exactly one entry in intake's timeline",
        "SELECT o.service, o.event_id AS event, o.type, o.subject AS ticket, count(t.event_id) AS entries"
        " FROM outbox AS o JOIN inbox AS n ON n.service = 'intake' AND n.publisher = o.service"
        " AND n.subject = o.subject AND o.version <= n.version"
        " LEFT JOIN timeline AS t ON t.event_id = o.event_id"
        f" WHERE o.stream = 'own' AND o.type IN ({consumed})"
        " AND NOT EXISTS (SELECT 1 FROM dead AS d WHERE d.service = 'intake' AND d.event_id = o.event_id)"
        " GROUP BY o.event_id HAVING entries <> 1",
    )
    found.all_of(
        evidence,
        "an entry in intake's timeline of an event that nobody published",
        "SELECT t.service, t.event_id AS event, t.type, t.ticket_id AS ticket FROM timeline AS t"
        f" WHERE t.type IN ({known}) AND born(t.event_id) >= :kept"
        " AND NOT EXISTS (SELECT 1 FROM outbox AS o WHERE o.event_id = t.event_id)",
        kept=evidence.scope.kept_from,
    )


def _count(type_name: str, service: str, extra: str = "") -> str:
    return (
        f"(SELECT count(*) FROM outbox AS e WHERE e.type = '{type_name}' AND e.subject = x.ticket_id"
        f" AND e.service = '{service}' AND e.stream = 'own'{extra})"
    )


_UNHELD = " NOT EXISTS (SELECT 1 FROM held WHERE held.subject = x.ticket_id) AND born(x.ticket_id) >= :kept"
_ROUNDS = (
    f"1 + {_count('ticket.supplemented', 'intake')} + {_count('order.returned', 'dispatch', ' AND NOT e.redispatched')}"
)
# What must agree: words, the row's side and its table, the other side.
_AGREE = (
    (
        "review counts other rounds than were caused",
        "reviews",
        "x.round",
        _ROUNDS,
        # What comes while the ticket is over is not counted, not even when it is reopened later.
        "x.status NOT IN ('ended', 'merged') AND NOT EXISTS (SELECT 1 FROM replayed AS d WHERE d.service = 'dispatch'"
        " AND d.subject = x.ticket_id AND d.reopened)",
    ),
    ("dispatch counts other rounds than it sent out", "orders", "x.round", _count("order.dispatched", "dispatch"), "1"),
    (
        "dispatch counts other callbacks than it published",
        "orders",
        "x.calls",
        _count("callback.recorded", "dispatch"),
        "1",
    ),
    (
        "dispatch stores other callbacks than it counts",
        "orders",
        "x.calls",
        "coalesce((SELECT c.calls FROM callbacks AS c WHERE c.ticket_id = x.ticket_id), 0)",
        "1",
    ),
    (
        "sla stores other escalations than it published",
        "facts",
        "coalesce((SELECT s.raised FROM escalations AS s WHERE s.ticket_id = x.ticket_id), 0)",
        _count("escalation.raised", "sla"),
        "1",
    ),
    (
        "sla and its events differ on the incident",
        "facts",
        "x.incident_id IS NOT NULL",
        _count("incident.joined", "sla"),
        "1",
    ),
)


def _rows_of_others(evidence: Evidence, found: Findings) -> None:
    kept = evidence.scope.kept_from
    for table, service in (("reviews", "review"), ("facts", "sla")):
        found.all_of(
            evidence,
            f"{service} does not know a registered ticket",
            f"SELECT x.ticket_id AS ticket FROM tickets AS x WHERE{_UNHELD}"
            f" AND NOT EXISTS (SELECT 1 FROM {table} AS y WHERE y.ticket_id = x.ticket_id)",
            kept=kept,
        )
        found.all_of(
            evidence,
            f"{service} knows a ticket that intake does not",
            f"SELECT x.ticket_id AS ticket FROM {table} AS x"
            " WHERE NOT EXISTS (SELECT 1 FROM tickets AS t WHERE t.ticket_id = x.ticket_id)",
        )
    found.all_of(
        evidence,
        "approved, and not dispatched",
        "SELECT x.ticket_id AS ticket, o.status FROM reviews AS x LEFT JOIN orders AS o ON o.ticket_id = x.ticket_id"
        f" WHERE{_UNHELD} AND x.status = 'approved' AND coalesce(o.status, 'returned') = 'returned'",
        kept=kept,
    )
    for what, table, stored, told, where in _AGREE:
        found.all_of(
            evidence,
            what,
            f"SELECT x.ticket_id AS ticket, {stored} AS stored, {told} AS events FROM {table} AS x"
            f" WHERE{_UNHELD} AND {where} AND {stored} <> {told}",
            kept=kept,
        )
    found.all_of(
        evidence,
        "an incident counts other members than it has",
        "SELECT i.incident_id AS incident, i.member_count AS stored, count(f.ticket_id) AS members FROM incidents AS i"
        " LEFT JOIN facts AS f ON f.incident_id = i.incident_id GROUP BY i.incident_id HAVING stored <> members",
    )
