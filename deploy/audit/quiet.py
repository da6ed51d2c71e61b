"""Whether the system is at rest: outboxes published, readers at the end of the log, and no event in the meantime.

What one service says of another can be compared only at rest. Invariant 12 is measured here too, before the audit's
own queries change the figures.
"""

import asyncio
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from deploy.audit.databases import APPLICATION, read_only
from deploy.audit.evidence import Scope
from deploy.audit.topics import Log
from services.sla.app import JOBS_POOL_SIZE
from shared.messaging.pauses import ALL, STOPPED_BY
from shared.service import BACKGROUND_POOL_SIZE, HEALTH_POOL_SIZE, RELAY_POOL_SIZE

ASK_SECONDS = 0.5
SCANS_SECONDS = 2.0
IDLE_LIMIT_SECONDS = 15
LARGE_TABLE_ROWS = 10_000
POOL_SIZE = 5
# Beside the pool for requests: readers and jobs, the relay, health, and the session of the leases.
BACKGROUND_CONNECTIONS = BACKGROUND_POOL_SIZE + RELAY_POOL_SIZE + HEALTH_POOL_SIZE + 1

_UNPUBLISHED = "SELECT id FROM outbox WHERE published_at IS NULL ORDER BY id LIMIT 1000"
_LAST = "SELECT coalesce(max(id), 0) FROM outbox"
# What somebody paused on purpose is behind, but not stuck; a reader that stopped by itself is.
_POSITIONS = (
    "SELECT topic, partition, next_offset, EXISTS (SELECT 1 FROM paused_topics AS p"
    " WHERE p.topic IN (c.topic, $1) AND p.paused_by <> $2) AS paused FROM consumer_offsets AS c"
)
_MEMBERS = (
    "SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted"
    " AND classid::int8 = ANY($1) AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
    " AND application_name IN ('gongdan', '')"
)
_IDLE = (
    "SELECT pid, application_name, extract(epoch FROM clock_timestamp() - state_change)::int AS seconds"
    " FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    " AND application_name <> $1 AND clock_timestamp() - state_change > make_interval(secs => $2)"
)
_SCANS = (
    "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE (relname LIKE 'outbox%' OR relname = 'clocks')"
    " AND n_live_tup > $1"
)


class Behind(NamedTuple):
    """A reader before the end of a partition; `paused` on purpose."""

    at: int
    end: int
    paused: bool


@dataclass(frozen=True)
class Motion:
    """One look: unpublished outbox rows by service, the last outbox id of each, and how far each reader is behind."""

    unpublished: Mapping[str, tuple[int, ...]]
    last: Mapping[str, int]
    behind: Mapping[tuple[str, str, int], Behind] = field(default_factory=dict)

    @property
    def unrest(self) -> str:
        """What still moves, in words; empty at rest."""
        parts = [f"{service} has {len(ids)} events to publish" for service, ids in self.unpublished.items() if ids]
        lag: dict[str, int] = {}
        for (service, _, _), place in self.behind.items():
            lag[service] = lag.get(service, 0) + place.end - place.at
        parts += [f"{service} has {count} records to read" for service, count in lag.items()]
        return "; ".join(parts)


async def look(log: Log, databases: Mapping[str, str]) -> Motion:
    unpublished: dict[str, tuple[int, ...]] = {}
    last: dict[str, int] = {}
    positions: dict[str, list[Any]] = {}
    for service, url in databases.items():
        async with read_only(url) as connection:
            positions[service] = await connection.fetch(_POSITIONS, ALL, STOPPED_BY)
            unpublished[service] = tuple(row[0] for row in await connection.fetch(_UNPUBLISHED))
            last[service] = await connection.fetchval(_LAST)
    marks = await log.ends()
    behind: dict[tuple[str, str, int], Behind] = {}
    for service, rows in positions.items():
        for topic, partition, at, paused in rows:
            end = marks.get(TopicPartition(topic, partition), 0)
            if at < end:
                behind[service, topic, partition] = Behind(at, end, paused)
    return Motion(unpublished, last, behind)


async def wait_for_quiet(scope: Scope, log: Log, databases: Mapping[str, str], seconds: float) -> None:
    """Wait until two looks are alike and at rest. What did not move all the while is kept as stuck."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    first = before = await look(log, databases)
    while True:
        await asyncio.sleep(ASK_SECONDS)
        now = await look(log, databases)
        if not now.unrest and now == before:
            return
        if loop.time() - began >= seconds:
            break
        before = now
    for service, ids in now.unpublished.items():
        scope.stuck += [
            f"{service}: outbox row {row} is not published" for row in sorted({*ids} & {*first.unpublished[service]})
        ]
    for where, place in now.behind.items():
        before_now = first.behind.get(where)
        if before_now is not None and before_now.at == place.at and not place.paused:
            service, topic, partition = where
            scope.stuck.append(f"{service} stands still at {topic}/{partition} offset {place.at} of {place.end}")


def settle(scope: Scope, before: Motion, after: Motion) -> None:
    """Say whether all that was read between two looks belongs together."""
    moved = [service for service in before.last if before.last[service] != after.last[service]]
    scope.unrest = before.unrest or after.unrest or (f"new events in {', '.join(moved)}" if moved else "")
    scope.quiet = not scope.unrest


async def measure_connections(
    scope: Scope, databases: Mapping[str, str], *, pool_size: int = POOL_SIZE, processes: int | None = None
) -> None:
    """Invariant 12. Sequential scans are compared over two seconds in which nothing of ours runs."""
    before: dict[str, dict[str, int]] = {}
    for service, url in databases.items():
        async with read_only(url) as connection:
            before[service] = await _scans(connection)
            allowed = await _allowed(connection, service, pool_size, processes)
            sessions = await connection.fetchval(_SESSIONS)
            # The sessions, and one look at open transactions.
            scope.connections += sessions + 1
            if sessions > allowed:
                scope.leaks.append(f"{service}: {sessions} connections, the pools allow {allowed}")
            for row in await connection.fetch(_IDLE, APPLICATION, float(IDLE_LIMIT_SECONDS)):
                scope.leaks.append(
                    f"{service}: session {row['pid']} ({row['application_name']}) idle in a transaction"
                    f" for {row['seconds']} s"
                )
    if not any(before.values()):
        return
    await asyncio.sleep(SCANS_SECONDS)
    for service, url in databases.items():
        async with read_only(url) as connection:
            for table, scans in (await _scans(connection)).items():
                grown = scans - before[service].get(table, scans)
                scope.connections += 1
                if grown > 0:
                    scope.leaks.append(f"{service}: {grown} sequential scans of {table} in {SCANS_SECONDS:g} s")


async def _scans(connection: Any) -> dict[str, int]:
    return {row["relname"]: row["seq_scan"] for row in await connection.fetch(_SCANS, LARGE_TABLE_ROWS)}


async def _allowed(connection: Any, service: str, pool_size: int, processes: int | None) -> int:
    """What the pools of the service's processes may open; a process is known by its lease session."""
    roles = [zlib.crc32(f"member:{role}".encode()) for role in ("consumer", "relay", "sweep", "audit")]
    running = processes or max(1, await connection.fetchval(_MEMBERS, roles))
    each = pool_size + BACKGROUND_CONNECTIONS + (JOBS_POOL_SIZE if service == "sla" else 0)
    return running * each
