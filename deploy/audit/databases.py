"""What an audit reads from the four databases: read-only sessions, one snapshot a database, rows streamed by cursor.

Only slim columns leave the database; of an event's data no more than what a check needs.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from deploy.audit.evidence import Evidence
from services.dispatch.consumers import SILENT_BRANCH
from services.dispatch.domain.order import RULES
from shared.contracts.envelope import SOURCE_PREFIX
from shared.contracts.registry import MODELS
from shared.messaging.inbox import headers_in

APPLICATION = "gongdan audit"
CONNECT_SECONDS = 10.0
ROWS_AT_ONCE = 5000
READ_ONLY = {
    "default_transaction_read_only": "on",
    "application_name": APPLICATION,
    "lock_timeout": "5000",
    "TimeZone": "UTC",
}


def micros_of(column: str) -> str:
    """SQL: a moment as whole microseconds since 1970."""
    return f"(extract(epoch FROM {column}) * 1000000)::bigint"


_STREAM = (
    "CASE WHEN version IS NULL THEN NULL WHEN topic LIKE 'gongdan.dispatch.%' THEN 'branch'"
    " WHEN topic = 'gongdan.control' THEN 'control' ELSE 'own' END"
)
# Types of which a check needs part of the data; the others' payload is not opened.
_OPENED = "('order.dispatched', 'order.urged', 'order.escalated', 'order.recalled', 'order.returned'," + (
    " 'clock.warned', 'clock.breached', 'escalation.raised')"
)
# Of what an escalation is, or of the clock it tells of. Rules urge only where sla calls a branch silent.
_KIND = (
    "coalesce(data ->> 'kind', data -> 'clock' ->> 'kind',"
    f" CASE WHEN type = 'order.urged' AND data ->> 'actor' = '{RULES}' THEN '{SILENT_BRANCH}' END)"
)
_FIRED_AT = micros_of("(data ->> 'fired_at')::timestamptz")
_OUTBOX = (
    f"SELECT id, {_STREAM}, topic, subject::text, version, event_id::text, type, {micros_of('created_at')},"
    f" {micros_of('published_at')}, encode(sha256(payload), 'hex'), data ->> 'branch',"
    " (data ->> 'redispatched')::bool::int, (data ->> 'round')::int,"
    f" {_KIND}, (data -> 'clock' ->> 'cycle')::int,"
    f" {_FIRED_AT}, (data ->> 'rung')::int"
    " FROM outbox CROSS JOIN LATERAL (SELECT CASE WHEN type IN "
    f"{_OPENED} THEN convert_from(payload, 'UTF8')::json END AS data) AS opened"
)
_DEAD = (
    "SELECT id, topic, partition, record_offset, headers, error, "
    f"{micros_of('failed_at')}, encode(sha256(headers || coalesce(payload, '')), 'hex'), state FROM dead_letters"
)
_CLOCKS = (
    "SELECT clock_id::text, ticket_id::text, kind, cycle, state, boundary, soft::int,"
    " (explanation ? 'changes')::int, "
    + ", ".join(micros_of(name) for name in ("due_at", "warn_at", "next_at", "warned_at", "breached_at", "stopped_at"))
    + " FROM clocks"
)
_KEYS = (
    "SELECT client, key, status, CASE WHEN status < 300 THEN convert_from(answer, 'UTF8')::json ->> 'ticket_id' END"
    " FROM idempotency_keys"
)

# Table of the evidence: query. Rows of these tables get the service's name in front.
_EVERYWHERE: Mapping[str, str] = {
    "outbox": _OUTBOX,
    "inbox": "SELECT subject::text, publisher, version FROM inbox",
    "commands": "SELECT event_id::text FROM inbox_commands",
    "parked": "SELECT subject::text, publisher, version, topic, reason FROM parked_events",
    "positions": "SELECT topic, partition, next_offset, incarnation FROM consumer_offsets",
    "keys": _KEYS,
    "erased": "SELECT subject::text FROM erased_subjects",
}
_SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "intake": ("SELECT ticket_id::text, 'own', version FROM tickets",),
    "review": ("SELECT ticket_id::text, 'own', version FROM reviews",),
    "dispatch": (
        "SELECT ticket_id::text, 'own', version FROM work_orders",
        "SELECT ticket_id::text, 'branch', branch_version FROM work_orders",
    ),
    "sla": (
        "SELECT ticket_id::text, 'own', version FROM complaint_facts",
        "SELECT incident_id::text, 'own', version FROM incidents",
    ),
}
_OWN: Mapping[str, Mapping[str, str]] = {
    "intake": {
        "tickets": "SELECT ticket_id::text, ticket_no, status, review_status, order_status, branch,"
        " encode(request_hash, 'hex') || customer_key FROM tickets",
        "timeline": "SELECT ticket_id::text, event_id::text, service, type FROM ticket_timeline",
    },
    "review": {"reviews": "SELECT ticket_id::text, status, round, priority FROM reviews"},
    "dispatch": {
        "orders": "SELECT ticket_id::text, status, round, branch, rung, calls FROM work_orders",
        "callbacks": "SELECT ticket_id::text, count(*) FROM callbacks GROUP BY ticket_id",
    },
    "sla": {
        "facts": "SELECT ticket_id::text, ended::int, (archived_at IS NOT NULL)::int, branch, incident_id::text"
        " FROM complaint_facts",
        "cycles": "SELECT ticket_id::text, key, value::int FROM complaint_facts, jsonb_each_text(cycles)",
        "clocks": _CLOCKS,
        "escalations": "SELECT ticket_id::text, count(*) FROM escalations GROUP BY ticket_id",
        "incidents": "SELECT incident_id::text, member_count FROM incidents",
    },
}
# Events written down by `Transaction.publish`; other rows of the trail stand for acts that publish nothing.
_AUDITED = "SELECT details::json ->> 'event_id' FROM audit_trail WHERE action = ANY($1)"
# The oldest day whose events are still kept; a younger database keeps everything.
_KEPT_FROM = (
    "SELECT min(substring(inhrelid::regclass::text FROM 'outbox_p([0-9]{8})')) FROM pg_inherits"
    " WHERE inhparent = 'outbox'::regclass"
)


@asynccontextmanager
async def read_only(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A session that cannot write. Raises what asyncpg and the network raise."""
    connection = await asyncpg.connect(
        url.replace("postgresql+asyncpg://", "postgresql://"), timeout=CONNECT_SECONDS, server_settings=READ_ONLY
    )
    try:
        yield connection
    finally:
        await connection.close(timeout=CONNECT_SECONDS)


async def read_databases(evidence: Evidence, databases: Mapping[str, str]) -> None:
    for service, url in databases.items():
        async with read_only(url) as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            await _read(evidence, service, connection)


async def _read(evidence: Evidence, service: str, connection: asyncpg.Connection) -> None:
    for table, query in _EVERYWHERE.items():
        await _copy(evidence, table, connection, query, service)
    for query in _SUBJECTS[service]:
        await _copy(evidence, "subjects", connection, query, service)
    for table, query in _OWN[service].items():
        await _copy(evidence, table, connection, query)
    await _read_dead(evidence, service, connection)
    scope = evidence.scope
    day = await connection.fetchval(_KEPT_FROM)
    if day is not None:
        start = await connection.fetchval(f"SELECT {micros_of('$1::text::timestamptz')}", f"{day} 00:00+00")
        scope.kept_from = max(scope.kept_from, start)
    scope.now = await connection.fetchval(f"SELECT {micros_of('clock_timestamp()')}")
    since = await connection.fetchval(f"SELECT {micros_of('min(at)')} FROM audit_trail")
    if since is not None:
        scope.audited_from[service] = since
        await _copy(evidence, "audit_rows", connection, _AUDITED, service, sorted(MODELS))


async def _copy(
    evidence: Evidence,
    table: str,
    connection: asyncpg.Connection,
    query: str,
    service: str | None = None,
    *values: Any,
) -> None:
    rows: list[Any] = []
    front = () if service is None else (service,)
    async for row in connection.cursor(query, *values, prefetch=ROWS_AT_ONCE):
        rows.append((*front, *row))
        if len(rows) == ROWS_AT_ONCE:
            evidence.add(table, rows)
            rows.clear()
    evidence.add(table, rows)


async def _read_dead(evidence: Evidence, service: str, connection: asyncpg.Connection) -> None:
    """The dead letters, with what their headers say of the event; a broken header says nothing."""
    async for row in connection.cursor(_DEAD, prefetch=ROWS_AT_ONCE):
        said = {name: value.decode("utf-8", "replace") for name, value in headers_in(bytes(row["headers"]))}
        version = said.get("ce_sequence", "")
        evidence.add(
            "dead",
            [
                (
                    service,
                    *(row["id"], row["topic"], row["partition"], row["record_offset"]),
                    said.get("ce_subject"),
                    said.get("ce_source", "").removeprefix(SOURCE_PREFIX),
                    int(version) if version.isascii() and version.isdecimal() and len(version) < 10 else None,
                    said.get("ce_id"),
                    *row[5:],
                )
            ],
        )
