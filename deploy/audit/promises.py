"""The invariants of what people were told and see: requests, outcomes, clocks (1, 2, 7)."""

from deploy.audit.evidence import Evidence
from deploy.audit.findings import Findings
from services.intake.domain import FINAL_HERE, TicketStatus, overall

DAY = 86_400_000_000
# Answers kept for retries are purged after a week.
KEYS_KEPT = 6 * DAY
# How late the sweep may be, real time: its readiness limit for moments overdue.
SWEEP_SECONDS = 30
# How long before its own reading of the time a transaction may have begun, in microseconds.
TRANSACTION = 1_000_000


def requests_are_kept(evidence: Evidence) -> Findings:
    """1. What was answered ok exists once, what failed does not, what is unknown exists at most once.

    The answers kept of an erased ticket are deleted, so only the ticket itself is asked for.
    """
    found = Findings(evidence.count("SELECT count(*) FROM keys WHERE service = 'intake' AND status = 201"))
    found.all_of(
        evidence,
        "a kept answer of a ticket that does not exist",
        "SELECT k.ticket_id AS ticket FROM keys AS k WHERE k.service = 'intake' AND k.status = 201"
        " AND NOT EXISTS (SELECT 1 FROM tickets AS t WHERE t.ticket_id = k.ticket_id)",
    )
    if not evidence.scope.journal:
        found.notes.append("no journal: what was promised to whom is not known")
        return found
    found.checked += evidence.count("SELECT count(DISTINCT key) FROM requests WHERE key IS NOT NULL")
    since = evidence.scope.now - KEYS_KEPT
    found.all_of(
        evidence,
        "answered ok, and the ticket is not there",
        "SELECT DISTINCT key, ticket_id AS ticket, ticket_no FROM requests AS q WHERE action = 'register'"
        " AND outcome = 'ok' AND NOT EXISTS (SELECT 1 FROM tickets AS t WHERE t.ticket_id = q.ticket_id"
        " AND t.ticket_no = coalesce(q.ticket_no, t.ticket_no))",
    )
    found.all_of(
        evidence,
        "answered ok, and nothing was kept of it",
        "SELECT DISTINCT key, action, ticket_id AS ticket FROM requests AS q WHERE outcome = 'ok' AND key IS NOT NULL"
        " AND action <> 'command' AND sent_at > :since AND NOT EXISTS (SELECT 1 FROM keys AS k WHERE k.key = q.key)"
        " AND NOT EXISTS (SELECT 1 FROM erased WHERE erased.subject = q.ticket_id)",
        since=since,
    )
    found.all_of(
        evidence,
        "failed, and yet it was done",
        "SELECT key, action FROM requests WHERE key IS NOT NULL AND action <> 'command' GROUP BY key"
        " HAVING min(outcome) = 'failed' AND max(outcome) = 'failed'"
        " AND EXISTS (SELECT 1 FROM keys AS k WHERE k.key = requests.key)",
    )
    found.all_of(
        evidence,
        "one key, several tickets",
        "SELECT key, count(DISTINCT ticket) AS tickets FROM (SELECT key, ticket_id AS ticket FROM requests"
        " WHERE action = 'register' AND outcome = 'ok' UNION ALL SELECT k.key, k.ticket_id FROM keys AS k"
        " WHERE k.service = 'intake' AND k.status = 201 AND k.key IN (SELECT key FROM requests))"
        " GROUP BY key HAVING count(DISTINCT ticket) > 1",
    )
    found.all_of(
        evidence,
        "one key, done more than once",
        "SELECT key, count(*) AS times FROM keys WHERE key IN (SELECT key FROM requests) GROUP BY key"
        " HAVING count(*) > 1",
    )
    found.all_of(
        evidence,
        "a request registered twice",
        "SELECT k.key, k.ticket_id AS ticket, other.ticket_id AS other FROM keys AS k"
        " JOIN tickets AS t ON t.ticket_id = k.ticket_id JOIN tickets AS other ON other.repeats = t.repeats"
        " AND other.ticket_id <> t.ticket_id WHERE k.service = 'intake' AND k.key IN (SELECT key FROM requests)"
        " AND coalesce(born(other.ticket_id), 0) > :since"
        " AND NOT EXISTS (SELECT 1 FROM keys AS o WHERE o.ticket_id = other.ticket_id AND o.status = 201)"
        " AND NOT EXISTS (SELECT 1 FROM erased WHERE erased.subject = other.ticket_id)",
        since=since,
    )
    if found.at_rest(evidence, "what became of the branches' commands"):
        found.all_of(
            evidence,
            "a command that was neither carried out nor refused",
            "SELECT DISTINCT key FROM requests AS q WHERE action = 'command' AND outcome = 'ok'"
            " AND NOT EXISTS (SELECT 1 FROM commands AS c WHERE c.event_id = q.key)"
            " AND NOT EXISTS (SELECT 1 FROM dead AS d WHERE d.event_id = q.key)",
        )
    return found


_SIDES = (
    " LEFT JOIN replayed AS i ON i.service = 'intake' AND i.subject = x.ticket_id"
    " LEFT JOIN replayed AS r ON r.service = 'review' AND r.subject = x.ticket_id"
    " LEFT JOIN replayed AS d ON d.service = 'dispatch' AND d.subject = x.ticket_id"
    " WHERE i.state IS NOT NULL AND born(x.ticket_id) >= :kept"
    " AND NOT EXISTS (SELECT 1 FROM held WHERE held.subject = x.ticket_id)"
)
# The ticket ended at intake or by merging: dispatch and review must have ended too.
_ENDED = "(i.state IN ('withdrawn', 'answered') OR coalesce(r.state, '') = 'merged')"


def outcomes_are_single(evidence: Evidence) -> Findings:
    """2. Every ticket moved along the state graph only, and all services agree on the one outcome it has."""
    found = Findings(evidence.count("SELECT count(*) FROM replayed"))
    found.all_of(
        evidence,
        "a step outside the state graph",
        "SELECT service, subject, illegal AS step FROM replayed WHERE illegal IS NOT NULL",
    )
    if not found.at_rest(evidence, "the status that each service holds"):
        return found
    kept = evidence.scope.kept_from
    found.checked += evidence.count("SELECT count(*) FROM tickets")
    rows = evidence.rows(
        f"SELECT x.ticket_id, x.status, i.state AS own, r.shown AS review, d.shown AS placed FROM tickets AS x{_SIDES}",
        kept=kept,
    )
    for row in rows:
        own = TicketStatus(row["own"])
        expected = (
            own
            if own in FINAL_HERE
            else overall(
                TicketStatus.registered,
                TicketStatus(row["review"]) if row["review"] else None,
                TicketStatus(row["placed"]) if row["placed"] else None,
            )
        )
        if row["status"] != expected:
            found.breach(f"intake shows another status: ticket {row['ticket_id']}, {row['status']} not {expected}")
    found.all_of(
        evidence,
        "dispatch holds another status than its events say",
        "SELECT x.ticket_id AS ticket, x.status, d.state AS events_say FROM orders AS x"
        f"{_SIDES} AND x.status <> CASE WHEN {_ENDED} THEN 'ended' ELSE coalesce(d.state, 'none') END",
        kept=kept,
    )
    # A reopened ticket may have ended in between; then its review counts as approved again.
    found.all_of(
        evidence,
        "review holds another status than its events say",
        "SELECT x.ticket_id AS ticket, x.status, r.state AS events_say FROM reviews AS x"
        f"{_SIDES} AND x.status <> CASE WHEN r.state = 'merged' THEN 'merged' WHEN {_ENDED} OR d.state = 'closed'"
        " THEN 'ended' ELSE coalesce(r.state, 'none') END"
        " AND NOT (coalesce(d.reopened, 0) AND x.status = 'approved')",
        kept=kept,
    )
    found.all_of(
        evidence,
        "sla does not agree that the ticket ended, or that it did not",
        "SELECT x.ticket_id AS ticket, x.ended FROM facts AS x"
        f"{_SIDES} AND x.ended <> ({_ENDED} OR coalesce(d.state, '') = 'closed')"
        f" AND NOT (coalesce(d.reopened, 0) AND {_ENDED})",
        kept=kept,
    )
    return found


def clocks_tell_the_truth(evidence: Evidence) -> Findings:
    """7. Every clock due by now fired or was stopped: never both, never twice, never early."""
    found = Findings(evidence.count("SELECT count(*) FROM clocks"))
    run = "c.clock_id AS clock, c.ticket_id AS ticket, c.kind, c.cycle"
    # The first moment at which the promise is broken (`ClockRun.breach_at`).
    broken_at = "c.due_at + (c.boundary <> 'at')"
    business_now = evidence.scope.business(evidence.scope.now)
    grace = round(SWEEP_SECONDS * 1_000_000 * evidence.scope.scale)
    conditions = {
        "fired early": f"c.breached_at < {broken_at}",
        "fired in the future": "c.breached_at > :now + :grace",
        "warned early": "c.warned_at < c.warn_at AND NOT c.moved",
        "breached without a time, or not breached with one": "(c.state = 'breached') <> (c.breached_at IS NOT NULL)",
        "both met and late": f"c.state = 'met' AND coalesce(c.stopped_at, {broken_at}) >= {broken_at}",
        "stopped without a time": "c.state IN ('met', 'stopped') AND c.stopped_at IS NULL",
        "due and neither fired nor stopped": "c.state = 'running' AND c.stopped_at IS NULL"
        f" AND {broken_at} < :now - :grace",
        "will never fire": "c.state = 'running' AND c.stopped_at IS NULL"
        f" AND coalesce(c.next_at, {broken_at} + 1) > {broken_at}",
        "still to fire though it is over": "c.stopped_at IS NOT NULL AND c.next_at IS NOT NULL",
    }
    for what, condition in conditions.items():
        found.all_of(
            evidence,
            what,
            f"SELECT {run} FROM clocks AS c WHERE {condition}",
            now=business_now,
            grace=grace,
        )
    found.all_of(
        evidence,
        "a clock of one kind and cycle twice",
        "SELECT ticket_id AS ticket, kind, cycle, count(*) AS clocks FROM clocks GROUP BY 1, 2, 3 HAVING count(*) > 1",
    )
    found.all_of(
        evidence,
        "cycles with a hole",
        "SELECT y.ticket_id AS ticket, y.kind, y.cycle, count(c.clock_id) AS clocks FROM cycles AS y"
        " LEFT JOIN clocks AS c ON c.ticket_id = y.ticket_id AND c.kind = y.kind GROUP BY 1, 2, 3"
        " HAVING clocks <> y.cycle",
    )
    _breach_events(evidence, found, run)
    return found


def _breach_events(evidence: Evidence, found: Findings, run: str) -> None:
    events = (
        "SELECT subject, kind, cycle, count(*) AS events, max(fired_at) AS fired_at, min(created) AS created"
        " FROM outbox WHERE type = 'clock.breached' AND stream = 'own' GROUP BY 1, 2, 3"
    )
    join = "e.subject = c.ticket_id AND e.kind = c.kind AND e.cycle = c.cycle"
    found.all_of(
        evidence,
        "not one breach event of a clock that fired",
        f"SELECT {run}, coalesce(e.events, 0) AS events FROM clocks AS c LEFT JOIN ({events}) AS e ON {join}"
        " WHERE coalesce(e.events, 0) <> (c.state = 'breached') AND born(c.ticket_id) >= :kept",
        kept=evidence.scope.kept_from,
    )
    found.all_of(
        evidence,
        "the breach event tells another time",
        f"SELECT {run} FROM clocks AS c JOIN ({events}) AS e ON {join} WHERE e.fired_at <> c.breached_at",
    )
    if evidence.scope.scale == 1:
        # Business time is then the database's time, which stamps the outbox row (with the transaction's beginning, a
        # little before the moment that was asked for): nobody else's clock is believed.
        found.all_of(
            evidence,
            "fired early by the database's time",
            f"SELECT {run} FROM clocks AS c JOIN ({events}) AS e ON {join} WHERE e.created < c.due_at - :begun",
            begun=TRANSACTION,
        )
