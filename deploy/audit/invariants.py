"""The twelve invariants, in the order of the fault plan. Each is a question to what was read; one breach is red."""

from deploy.audit import delivery, effects, promises
from deploy.audit.evidence import Evidence
from deploy.audit.findings import Findings, Invariant


def audit_is_whole(evidence: Evidence) -> Findings:
    """10. The audit trail holds one row for every event published, and its chain is unbroken."""
    found = Findings(evidence.scope.sealed, notes=list(evidence.scope.unsealed))
    for fault in evidence.scope.chain_faults:
        found.breach(fault)
    for service, since in evidence.scope.audited_from.items():
        published = "service = :service AND stream IN ('own', 'control') AND created >= :since"
        found.checked += evidence.count(
            f"SELECT count(*) FROM outbox WHERE {published}",
            service=service,
            since=since,
        )
        found.all_of(
            evidence,
            "not exactly one row in the audit trail",
            "SELECT o.service, o.event_id AS event, o.type, count(a.event_id) AS rows FROM outbox AS o"
            f" LEFT JOIN audit_rows AS a ON a.event_id = o.event_id WHERE o.{published}"
            " GROUP BY o.event_id HAVING rows <> 1",
            service=service,
            since=since,
        )
        found.all_of(
            evidence,
            "a row in the audit trail of an event that was never published",
            "SELECT a.service, a.event_id AS event FROM audit_rows AS a WHERE a.service = :service"
            " AND born(a.event_id) >= :kept AND NOT EXISTS (SELECT 1 FROM outbox AS o WHERE o.event_id = a.event_id)",
            service=service,
            kept=evidence.scope.kept_from,
        )
    if not evidence.scope.audited_from:
        found.notes.append("no audit trail is kept")
    return found


def nothing_personal_leaks(evidence: Evidence) -> Findings:
    """11. No personal data stands anywhere but in intake's encrypted column."""
    scope = evidence.scope
    return Findings(scope.searched, breaches=scope.leaked, shown=list(scope.personal))


def nothing_is_held(evidence: Evidence) -> Findings:
    """12. No connection leaks, no transaction stands open, and no large outbox or clocks is read from end to end."""
    found = Findings(evidence.scope.connections)
    for leak in evidence.scope.leaks:
        found.breach(leak)
    return found


INVARIANTS = (
    Invariant(
        1,
        "requests",
        "What was answered ok exists once, what failed does not, what is unknown exists at most once.",
        promises.requests_are_kept,
    ),
    Invariant(
        2,
        "outcomes",
        "A ticket moves along the state graph only, and all services agree on its one outcome.",
        promises.outcomes_are_single,
    ),
    Invariant(
        3,
        "versions",
        "The versions of a subject are 1..n, and each subscriber has applied exactly those.",
        delivery.versions_are_whole,
    ),
    Invariant(
        4,
        "effects",
        "Every event is published, and has exactly one effect at each subscriber.",
        effects.effects_are_single,
    ),
    Invariant(
        5,
        "order",
        "The records of a subject stand in the order of their versions, repeats left out.",
        delivery.order_is_kept,
    ),
    Invariant(
        6,
        "branches",
        "A branch's topic holds that branch's records only, and every copy is alike.",
        delivery.branches_get_their_own,
    ),
    Invariant(
        7,
        "clocks",
        "Every clock due by now fired or was stopped: never both, never twice, never early.",
        promises.clocks_tell_the_truth,
    ),
    Invariant(
        8,
        "dead letters",
        "Nothing is parked or dead without a reason; dead letters stand in table and topic alike.",
        delivery.nothing_waits_without_reason,
    ),
    Invariant(
        9,
        "offsets",
        "No reader is ahead of its log, and its offsets belong to the log that is there.",
        delivery.offsets_fit_the_log,
    ),
    Invariant(
        10,
        "audit trail",
        "Every event published has one row in the audit trail, and the chain of the trail is unbroken.",
        audit_is_whole,
    ),
    Invariant(
        11,
        "personal data",
        "No personal data stands anywhere but in intake's encrypted column.",
        nothing_personal_leaks,
    ),
    Invariant(
        12,
        "connections",
        "No connection leaks, no transaction stands open, no large table is read from end to end.",
        nothing_is_held,
    ),
)
