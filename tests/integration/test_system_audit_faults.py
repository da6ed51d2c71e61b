"""Faults planted in the databases of a true state: the audit names each by its invariant and id."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.messaging import NOW
from tests.support.parts import Broker, running_broker
from tests.support.played import Played, broken, played_to_the_end

__all__ = ["played_to_the_end"]

NAME = "欧阳不存在"


@pytest_asyncio.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Broker]:
    """What is planted in a database does not depend on the broker."""
    async with running_broker("embedded", tmp_path_factory.mktemp("embedded")) as running:
        yield running


# (invariant, words of the breach, service, statements): `{late}` and its like stand for the id of that ticket.
FAULTS: list[tuple[int, str, str, tuple[str, ...]]] = [
    (1, "a kept answer of a ticket that does not exist", "intake", ("DELETE FROM tickets WHERE ticket_id = '{late}'",)),
    (
        2,
        "a step outside the state graph",
        "dispatch",
        (
            "UPDATE outbox SET type = 'order.replied' WHERE subject = '{closed}' AND type = 'order.accepted'"
            " AND topic = 'gongdan.dispatch'",
        ),
    ),
    (
        2,
        "intake shows another status",
        "intake",
        ("UPDATE tickets SET status = 'accepted' WHERE ticket_id = '{late}'",),
    ),
    (
        2,
        "dispatch holds another status",
        "dispatch",
        ("UPDATE work_orders SET status = 'dispatched' WHERE ticket_id = '{withdrawn}'",),
    ),
    (
        2,
        "sla does not agree that the ticket ended",
        "sla",
        ("UPDATE complaint_facts SET ended = false WHERE ticket_id = '{closed}'",),
    ),
    (
        3,
        "versions with a hole or a double",
        "dispatch",
        ("DELETE FROM outbox WHERE subject = '{closed}' AND topic = 'gongdan.dispatch' AND version = 2",),
    ),
    (
        3,
        "events of a subject that has no row",
        "review",
        ("DELETE FROM reviews WHERE ticket_id = '{late}'",),
    ),
    (
        3,
        "review has applied what sla never published",
        "review",
        ("INSERT INTO inbox (subject, publisher, version) VALUES ('{new}', 'sla', 1)",),
    ),
    (3, "the row's version is not", "review", ("UPDATE reviews SET version = 9 WHERE ticket_id = '{late}'",)),
    (
        3,
        "sla has not applied all of dispatch",
        "sla",
        ("UPDATE inbox SET version = version - 1 WHERE subject = '{closed}' AND publisher = 'dispatch'",),
    ),
    (
        4,
        "not exactly one entry in intake's timeline",
        "intake",
        ("DELETE FROM ticket_timeline WHERE ticket_id = '{late}' AND type = 'order.dispatched'",),
    ),
    (
        4,
        "an entry in intake's timeline of an event that nobody published",
        "intake",
        (
            "INSERT INTO ticket_timeline SELECT ticket_id, '{new}', at, service, type, actor, rules, details"
            " FROM ticket_timeline WHERE ticket_id = '{late}' AND type = 'order.dispatched'",
        ),
    ),
    (4, "review does not know a registered ticket", "review", ("DELETE FROM reviews WHERE ticket_id = '{late}'",)),
    (4, "approved, and not dispatched", "dispatch", ("DELETE FROM work_orders WHERE ticket_id = '{late}'",)),
    (4, "review counts other rounds", "review", ("UPDATE reviews SET round = 7 WHERE ticket_id = '{late}'",)),
    (4, "dispatch counts other rounds", "dispatch", ("UPDATE work_orders SET round = 7 WHERE ticket_id = '{late}'",)),
    (4, "dispatch stores other callbacks", "dispatch", ("DELETE FROM callbacks WHERE ticket_id = '{closed}'",)),
    (
        4,
        "sla stores other escalations",
        "sla",
        (
            "INSERT INTO escalations (escalation_id, ticket_id, ticket_no, kind, rung, status, event, raised_at)"
            " SELECT gen_random_uuid(), ticket_id, ticket_no, 'overdue', 1, 'open', '{{}}', now() FROM complaint_facts"
            " WHERE ticket_id = '{late}'",
        ),
    ),
    (
        7,
        "fired early",
        "sla",
        ("UPDATE clocks SET due_at = now() + interval '1 hour' WHERE ticket_id = '{late}' AND kind = 'first_reply'",),
    ),
    (
        7,
        "fired in the future",
        "sla",
        ("UPDATE clocks SET breached_at = now() + interval '1 day' WHERE ticket_id = '{late}' AND state = 'breached'",),
    ),
    (
        7,
        "the breach event tells another time",
        "sla",
        (
            "UPDATE clocks SET breached_at = breached_at + interval '1 second' WHERE ticket_id = '{late}'"
            " AND state = 'breached'",
        ),
    ),
    (7, "cycles with a hole", "sla", ("DELETE FROM clocks WHERE ticket_id = '{late}' AND state = 'running'",)),
    (
        7,
        "not one breach event",
        "sla",
        (
            "INSERT INTO outbox (topic, subject, version, event_id, type, time, payload, published_at) SELECT topic,"
            " subject, version + 100, '{new}', type, time, payload, published_at FROM outbox"
            " WHERE subject = '{late}' AND type = 'clock.breached'",
        ),
    ),
    (
        7,
        "due and neither fired nor stopped",
        "sla",
        (
            "UPDATE clocks SET due_at = now() - interval '1 hour', next_at = now() - interval '1 hour'"
            " WHERE ticket_id = '{late}' AND state = 'running'",
        ),
    ),
    (
        7,
        "will never fire",
        "sla",
        ("UPDATE clocks SET next_at = NULL WHERE ticket_id = '{late}' AND state = 'running'",),
    ),
    (
        7,
        "both met and late",
        "sla",
        ("UPDATE clocks SET stopped_at = due_at + interval '1 second' WHERE state = 'met'",),
    ),
    (
        8,
        "parked behind nothing",
        "review",
        (
            "INSERT INTO parked_events (subject, publisher, version, topic, partition, record_offset, headers, payload,"
            " reason) VALUES ('{late}', 'sla', 99, 'gongdan.sla', 0, 0, '[]', '', 'waits for version 98')",
        ),
    ),
    (8, "a dead letter that is in no table", "review", ("DELETE FROM dead_letters",)),
    (8, "dead without a reason", "review", ("UPDATE dead_letters SET error = ''",)),
    (
        8,
        "buried twice",
        "review",
        (
            "INSERT INTO dead_letters (topic, partition, record_offset, headers, payload, error, attempts)"
            " SELECT topic, partition, record_offset, headers, payload, error, attempts FROM dead_letters",
        ),
    ),
    (
        8,
        "parked though its row is there",
        "review",
        (
            "INSERT INTO parked_events (subject, publisher, version, topic, partition, record_offset, headers, payload,"
            " reason) SELECT subject, publisher, version + 1, 'gongdan.sla', 0, 0, '[]', '', 'not yet' FROM inbox"
            " WHERE subject = '{late}' AND publisher = 'sla'",
        ),
    ),
    (
        8,
        "parked though it was applied",
        "review",
        (
            "INSERT INTO parked_events (subject, publisher, version, topic, partition, record_offset, headers, payload,"
            " reason) VALUES ('{late}', 'intake', 1, 'gongdan.intake', 0, 0, '[]', '', 'not yet')",
        ),
    ),
    (
        8,
        "a dead letter that is not on its topic",
        "review",
        (
            "INSERT INTO dead_letters (topic, partition, record_offset, headers, error, attempts, failed_at)"
            " VALUES ('gongdan.sla', 3, 4711, '[]', 'never sent', 2, now() + interval '1 minute')",
        ),
    ),
    (
        9,
        "offset behind the end of the log",
        "sla",
        ("UPDATE consumer_offsets SET next_offset = next_offset + 100000 WHERE topic = 'gongdan.intake'",),
    ),
    (9, "offset of another log", "intake", ("UPDATE consumer_offsets SET incarnation = 'x'",)),
    (9, "review reads 0 of 8 partitions", "review", ("DELETE FROM consumer_offsets WHERE topic = 'gongdan.sla'",)),
    (
        10,
        "not exactly one row in the audit trail",
        "dispatch",
        ("DELETE FROM audit_trail WHERE subject = '{closed}' AND action = 'ticket.closed'",),
    ),
    (
        10,
        "dispatch: row_altered",
        "dispatch",
        ("UPDATE audit_trail SET actor = 'nobody' WHERE subject = '{closed}' AND action = 'ticket.closed'",),
    ),
    (
        10,
        "a row in the audit trail of an event that was never published",
        "review",
        (
            "INSERT INTO audit_trail (actor, action, subject, details) VALUES ('a', 'review.approved', '{late}',"
            ' \'{{"event_id": "{new}"}}\')',
        ),
    ),
    (
        11,
        "a canary in database review: reviews.snapshot",
        "review",
        ("UPDATE reviews SET snapshot = snapshot || '{{\"content\": \"我是欧阳不存在\"}}' WHERE ticket_id = '{late}'",),
    ),
    (
        11,
        "a mobile number in database dispatch: outbox",
        "dispatch",
        (
            "UPDATE outbox SET payload = convert_to('{{\"phone\": \"13912345678\"}}', 'UTF8')"
            " WHERE subject = '{late}' AND topic = 'gongdan.dispatch'",
        ),
    ),
]


@pytest.mark.parametrize(("number", "words", "service", "statements"), FAULTS, ids=[fault[1] for fault in FAULTS])
async def test_a_planted_fault_is_named(
    played: Played, tmp_path: Path, number: int, words: str, service: str, statements: tuple[str, ...]
) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text(json.dumps({"n": 1, "at": NOW.isoformat(), "phase": "sent", "canaries": [NAME]}))
    results = await played.damaged(service, *statements, journal=journal)
    named = [text for text in results[number].shown if text.startswith(words)]
    assert named, broken(results)
    tickets = [getattr(played, name) for name in ("closed", "withdrawn", "late") if f"{{{name}}}" in statements[0]]
    if not any(word in named[0] for word in ("event ", " ctid ", "row_altered")):
        assert all(any(ticket in text for text in named) for ticket in tickets), named
