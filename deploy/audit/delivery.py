"""The invariants of events on their way: versions, order, branch topics, dead letters, offsets (3, 5, 6, 8, 9)."""

from deploy.audit.evidence import Evidence
from deploy.audit.findings import Findings
from shared.contracts.topics import CONTROL, topic_file

# Between the sending of a record and its mark lie up to 15 s, the relay's wave. What was marked within this time (in
# microseconds) after the log began, or after the first record that is still kept, may have been sent before it.
LOG_MARGIN = 20_000_000

# The last version of each stream; a subject whose first events are past retention is left out.
_LAST = (
    "SELECT service, stream, subject, max(version) AS n FROM outbox WHERE stream IN ('own', 'branch')"
    " GROUP BY service, stream, subject"
)


def versions_are_whole(evidence: Evidence) -> Findings:
    """3. Each subject's versions are 1..n without holes, and each subscriber has applied exactly those."""
    found = Findings(evidence.count("SELECT count(*) FROM outbox WHERE stream IS NOT NULL"))
    kept = evidence.scope.kept_from
    found.all_of(
        evidence,
        "versions with a hole or a double",
        "SELECT service, stream, subject, min(version) AS first, max(version) AS last, count(*) AS events FROM outbox"
        " WHERE stream IS NOT NULL GROUP BY service, stream, subject"
        " HAVING count(*) <> count(DISTINCT version) OR max(version) - min(version) + 1 <> count(*)"
        " OR (min(version) > 1 AND coalesce(born(subject), :kept) >= :kept)",
        kept=kept,
    )
    found.all_of(
        evidence,
        "the row's version is not that of its last event",
        f"SELECT s.service, s.stream, s.subject, s.version AS row_version, coalesce(o.n, 0) AS events"
        f" FROM subjects AS s LEFT JOIN ({_LAST}) AS o ON o.service = s.service AND o.stream = s.stream"
        " AND o.subject = s.subject WHERE s.version <> coalesce(o.n, 0)"
        " AND (o.n IS NOT NULL OR coalesce(born(s.subject), :kept) >= :kept)",
        kept=kept,
    )
    found.all_of(
        evidence,
        "events of a subject that has no row",
        f"SELECT o.service, o.subject, o.n AS events FROM ({_LAST}) AS o"
        " WHERE o.stream = 'own' AND NOT EXISTS (SELECT 1 FROM subjects AS s WHERE s.service = o.service"
        " AND s.stream = o.stream AND s.subject = o.subject)",
    )
    if found.at_rest(evidence, "what each subscriber has applied"):
        _applied(evidence, found, kept)
    return found


def _applied(evidence: Evidence, found: Findings, kept: int) -> None:
    pairs = [
        (reader, publisher)
        for topic in topic_file().topics
        if topic.name != CONTROL
        for publisher in topic.producers
        for reader in topic.consumers
        if {reader, publisher} <= {"intake", "review", "dispatch", "sla"}
    ]
    for reader, publisher in pairs:
        last = f"{_LAST.replace(' GROUP BY', ' AND service = :publisher GROUP BY')}"
        found.checked += evidence.count(
            f"SELECT count(*) FROM ({last}) WHERE stream = 'own'",
            publisher=publisher,
        )
        found.all_of(
            evidence,
            f"{reader} has not applied all of {publisher}",
            f"SELECT o.subject, o.n AS published, coalesce(inbox.version, 0) AS applied FROM ({last}) AS o"
            " LEFT JOIN inbox ON inbox.service = :reader AND inbox.publisher = :publisher"
            " AND inbox.subject = o.subject"
            f" WHERE o.stream = 'own' AND o.n <> coalesce(inbox.version, 0)"
            " AND NOT EXISTS (SELECT 1 FROM held WHERE held.service = :reader AND held.subject = o.subject)",
            reader=reader,
            publisher=publisher,
        )
        found.all_of(
            evidence,
            f"{reader} has applied what {publisher} never published",
            "SELECT inbox.subject, inbox.version AS applied FROM inbox WHERE inbox.service = :reader"
            " AND inbox.publisher = :publisher AND coalesce(born(inbox.subject), 0) >= :kept"
            " AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.service = :publisher"
            " AND outbox.stream IN ('own', 'control') AND outbox.subject = inbox.subject)",
            reader=reader,
            publisher=publisher,
            kept=kept,
        )


def order_is_kept(evidence: Evidence) -> Findings:
    """5. Per subject, the order in the topic with repeats left out is that of the versions, in one partition.

    What began before this log did (or before the first record that a trimmed partition still holds) comes here by a
    replay beside what is new, in no order that anybody promised: the readers' versions set it right. It is not judged.
    """
    begun = (
        "SELECT service, stream, subject, min(created) AS at FROM outbox WHERE stream IS NOT NULL"
        " GROUP BY service, stream, subject"
    )
    evidence.derive(
        "placed",
        "SELECT r.topic, r.partition, r.subject, r.publisher, r.version, min(r.position) AS first, b.at >= max(:log,"
        " coalesce((SELECT p.first_at FROM partitions AS p WHERE p.topic = r.topic AND p.partition = r.partition"
        " AND p.first > 0), 0)) AS whole"
        " FROM records AS r JOIN outbox AS o ON o.event_id = r.event_id AND o.topic = r.topic"
        f" JOIN ({begun}) AS b ON b.service = o.service AND b.stream = o.stream AND b.subject = o.subject"
        " GROUP BY r.topic, r.partition, r.subject, r.publisher, r.version",
        log=evidence.scope.log_from,
    )
    found = Findings(evidence.count("SELECT count(*) FROM placed WHERE whole"))
    found.all_of(
        evidence,
        "out of order",
        "SELECT topic, partition, publisher, subject, min(version) AS version FROM (SELECT *, first < lag(first) OVER"
        " (PARTITION BY topic, partition, publisher, subject ORDER BY version) AS early FROM placed WHERE whole)"
        " WHERE early GROUP BY topic, partition, publisher, subject",
    )
    found.all_of(
        evidence,
        "in more than one partition",
        "SELECT topic, publisher, subject, count(DISTINCT partition) AS partitions FROM placed"
        " GROUP BY topic, publisher, subject HAVING count(DISTINCT partition) > 1",
    )
    if left := evidence.count("SELECT count(*) FROM placed WHERE NOT whole"):
        found.notes.append(f"{left} events of subjects that began before this log did")
    return found


def branches_get_their_own(evidence: Evidence) -> Findings:
    """6. A branch's topic holds that branch's records only, all copies alike, and nothing that was never published.

    The texts of an erased ticket are taken out of the outbox, so its records differ from what they were.
    """
    branch = "topic LIKE 'gongdan.dispatch.%' AND topic NOT LIKE '%.dlq'"
    found = Findings(evidence.count(f"SELECT count(*) FROM records WHERE {branch}"))
    place = "r.topic, r.partition, r.position AS 'offset', r.event_id AS event"
    found.all_of(
        evidence,
        "a record that was never published",
        f"SELECT {place} FROM records AS r WHERE {branch} AND r.at >= :kept"
        " AND NOT EXISTS (SELECT 1 FROM outbox AS o WHERE o.event_id = r.event_id)",
        kept=evidence.scope.kept_from,
    )
    found.all_of(
        evidence,
        "another branch's record",
        f"SELECT {place}, r.subject AS ticket FROM records AS r LEFT JOIN outbox AS o ON o.event_id = r.event_id"
        " WHERE r.topic LIKE 'gongdan.dispatch.%' AND r.topic NOT LIKE '%.dlq'"
        " AND ('gongdan.dispatch.' || coalesce(r.branch, '?') <> r.topic OR coalesce(o.topic, r.topic) <> r.topic)",
    )
    found.all_of(
        evidence,
        "a copy that differs",
        f"SELECT {place} FROM records AS r JOIN outbox AS o ON o.event_id = r.event_id"
        " WHERE r.topic LIKE 'gongdan.dispatch.%' AND r.topic NOT LIKE '%.dlq'"
        " AND NOT EXISTS (SELECT 1 FROM erased WHERE erased.subject = o.subject) AND (r.digest <> o.digest"
        " OR r.bytes <> (SELECT min(f.bytes) FROM records AS f WHERE f.event_id = r.event_id AND f.topic = r.topic))",
    )
    copies = f"SELECT event_id, topic, count(*) AS copies FROM records WHERE {branch} GROUP BY event_id, topic"
    if evidence.scope.copies is not None:
        found.all_of(
            evidence,
            "more copies than faults explain",
            f"SELECT topic, event_id AS event, copies FROM ({copies}) WHERE copies > 1 + :most",
            most=evidence.scope.copies,
        )
    most = evidence.count(f"SELECT coalesce(max(copies), 0) FROM ({copies})")
    found.notes.append(f"most copies of one record: {most}")
    return found


def nothing_waits_without_reason(evidence: Evidence) -> Findings:
    """8. Nothing is parked or dead without a reason; dead letters stand in table and topic alike, each once."""
    found = Findings(
        evidence.count("SELECT (SELECT count(*) FROM parked) + (SELECT count(*) FROM dead)")
        + evidence.count("SELECT count(*) FROM records WHERE dead_service IS NOT NULL")
    )
    who = "p.service, p.publisher, p.subject, p.version, p.topic"
    found.all_of(evidence, "parked without a reason", f"SELECT {who} FROM parked AS p WHERE trim(p.reason) = ''")
    found.all_of(evidence, "dead without a reason", "SELECT service, id FROM dead WHERE trim(error) = ''")
    found.all_of(
        evidence,
        "parked though it was applied",
        f"SELECT {who} FROM parked AS p JOIN inbox AS i ON i.service = p.service AND i.publisher = p.publisher"
        " AND i.subject = p.subject WHERE p.version <= i.version",
    )
    found.all_of(
        evidence,
        "buried twice",
        # In another log the same offset is another record, and a branch may have sent its command again.
        "SELECT service, topic, partition, position AS 'offset', count(*) AS rows FROM dead WHERE state <> 'redriven'"
        " AND failed_at >= :log GROUP BY service, topic, partition, position, digest HAVING count(*) > 1",
        log=evidence.scope.log_from,
    )
    if found.at_rest(evidence, "what parked events wait for; dead letters against their topics"):
        _explained(evidence, found)
        _on_topics(evidence, found)
    return found


def _explained(evidence: Evidence, found: Findings) -> None:
    """The first of a parked stream waits for its row, or stands behind a dead letter."""
    first = "p.version = coalesce((SELECT i.version FROM inbox AS i WHERE i.service = p.service" + (
        " AND i.publisher = p.publisher AND i.subject = p.subject), 0) + 1"
    )
    found.all_of(
        evidence,
        "parked behind nothing",
        f"SELECT p.service, p.publisher, p.subject, min(p.version) AS version FROM parked AS p"
        " WHERE NOT EXISTS (SELECT 1 FROM dead AS d WHERE d.service = p.service AND d.publisher = p.publisher"
        " AND d.subject = p.subject AND d.version < p.version)"
        " GROUP BY p.service, p.publisher, p.subject"
        f" HAVING NOT max({first})",
    )
    found.all_of(
        evidence,
        "parked though its row is there",
        f"SELECT p.service, p.publisher, p.subject, p.version, p.reason FROM parked AS p WHERE {first}"
        " AND CASE p.service WHEN 'intake' THEN EXISTS (SELECT 1 FROM tickets WHERE ticket_id = p.subject)"
        " WHEN 'review' THEN EXISTS (SELECT 1 FROM reviews WHERE ticket_id = p.subject)"
        " WHEN 'dispatch' THEN EXISTS (SELECT 1 FROM orders WHERE ticket_id = p.subject)"
        " ELSE EXISTS (SELECT 1 FROM facts WHERE ticket_id = p.subject) END",
    )


def _on_topics(evidence: Evidence, found: Findings) -> None:
    same = (
        "r.dead_service = d.service AND r.dead_topic = d.topic AND r.dead_partition = d.partition"
        " AND r.dead_position = d.position"
    )
    found.all_of(
        evidence,
        "a dead letter that is not on its topic",
        f"SELECT d.service, d.id, d.topic, d.partition, d.position AS 'offset' FROM dead AS d"
        f" WHERE NOT EXISTS (SELECT 1 FROM records AS r WHERE {same}) AND d.failed_at > :since AND d.failed_at >="
        " coalesce((SELECT max(first_at) FROM partitions AS p WHERE p.topic = d.topic || '.dlq' AND p.first > 0), 0)",
        since=evidence.scope.log_from + LOG_MARGIN,
    )
    found.all_of(
        evidence,
        "a dead letter that is in no table",
        "SELECT r.topic, r.position AS 'offset', r.dead_service, r.dead_topic, r.dead_partition, r.dead_position"
        " FROM records AS r WHERE r.topic LIKE '%.dlq'"
        f" AND NOT EXISTS (SELECT 1 FROM dead AS d WHERE {same})",
    )


def offsets_fit_the_log(evidence: Evidence) -> Findings:
    """9. No reader is ahead of its log, and every stored offset belongs to the log that is there."""
    found = Findings(evidence.count("SELECT count(*) FROM positions"))
    at = "p.service, p.topic, p.partition, p.next_offset"
    if found.at_rest(evidence, "the log of each stored offset"):
        found.all_of(
            evidence,
            "offset of another log",
            f"SELECT {at}, p.incarnation FROM positions AS p WHERE p.incarnation <> :log",
            log=evidence.scope.incarnation or "",
        )
        for topic in topic_file().topics:
            for service in {"intake", "review", "dispatch", "sla"} & {*topic.consumers}:
                if topic.producers == ("topic creator",):
                    continue
                known = evidence.count(
                    "SELECT count(*) FROM positions WHERE service = :service AND topic = :topic",
                    service=service,
                    topic=topic.name,
                )
                if known < topic.partitions:
                    found.breach(f"{service} reads {known} of {topic.partitions} partitions of {topic.name}")
    found.all_of(
        evidence,
        "offset behind the end of the log",
        f"SELECT {at}, coalesce(l.end, 0) AS end FROM positions AS p LEFT JOIN ends AS l"
        " ON l.topic = p.topic AND l.partition = p.partition WHERE p.next_offset > coalesce(l.end, 0)"
        " AND p.incarnation = :log",
        log=evidence.scope.incarnation or "",
    )
    return found
