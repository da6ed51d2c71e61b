"""What a consumer remembers: the last version applied of each subject, what is parked, what is dead, where it stands.

One small row a (publisher, subject) gives duplicate detection, order and gap detection together.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import orjson
from sqlalchemy import text

from shared.database.arrays import by_column
from shared.database.connection import Connection
from shared.messaging.events import Record

Stream = tuple[str, UUID]
"""(publisher, subject): the line of versions 1, 2, 3 …"""


class Position(NamedTuple):
    """Where a partition stands: the next offset to apply, in which log, and the time of the last applied record."""

    next_offset: int
    incarnation: str
    record_at: datetime | None


Moves = Mapping[tuple[str, int], tuple[Position, Position]]
"""By topic and partition: from where to where."""


class Parked(NamedTuple):
    version: int
    record: Record


class Known(NamedTuple):
    """What is remembered of some subjects: versions, which of them have parked events, and which are erased."""

    versions: dict[Stream, int]
    parked: set[UUID]
    erased: set[UUID]


_HOLD = """
SELECT count(pg_advisory_xact_lock(hash))
FROM (SELECT DISTINCT hashtextextended(id::text, 7202) AS hash FROM unnest($1::uuid[]) AS id ORDER BY hash) AS wanted
"""
_KNOWN = """
SELECT subject, publisher, version, false AS parked FROM inbox WHERE subject = ANY($1::uuid[])
UNION ALL SELECT subject, publisher, version, true FROM parked_events WHERE subject = ANY($1::uuid[])
UNION ALL SELECT subject, NULL, NULL, false FROM erased_subjects WHERE subject = ANY($1::uuid[])
"""
_SAVE = """
WITH changed AS (
    INSERT INTO inbox (publisher, subject, version) SELECT * FROM unnest($1::text[], $2::uuid[], $3::int[])
    ON CONFLICT (publisher, subject) DO UPDATE SET version = excluded.version
)
UPDATE consumer_offsets SET next_offset = moved.next_offset, record_at = moved.record_at
FROM unnest($4::text[], $5::int[], $6::bigint[], $7::text[], $8::bigint[], $9::timestamptz[])
    AS moved(topic, partition, expected, incarnation, next_offset, record_at)
WHERE consumer_offsets.topic = moved.topic AND consumer_offsets.partition = moved.partition
    AND consumer_offsets.next_offset = moved.expected AND consumer_offsets.incarnation = moved.incarnation
"""


def headers_out(headers: Iterable[tuple[str, bytes]]) -> bytes:
    """Headers as stored: JSON in bytes, for `jsonb` refuses a NUL that a record may carry; latin-1 keeps every byte."""
    return orjson.dumps([[name, value.decode("latin-1")] for name, value in headers])


def headers_in(stored: bytes) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, value.encode("latin-1")) for name, value in orjson.loads(stored))


async def hold(connection: Connection, subjects: Iterable[UUID]) -> None:
    """Keep other processes from these subjects until the commit: what one parks the other must see. In one order.

    A statement of its own: what is read under the lock needs a snapshot from after it.
    """
    await connection.run(_HOLD, list(subjects))


async def known(connection: Connection, subjects: Iterable[UUID]) -> Known:
    """What is remembered of these subjects, by all publishers; in one question, for each costs a small batch as much
    as all its rows."""
    found = Known({}, set(), set())
    for subject, publisher, version, is_parked in await connection.fetch(_KNOWN, list(subjects)):
        if publisher is None:
            found.erased.add(subject)
        elif is_parked:
            found.parked.add(subject)
        else:
            found.versions[publisher, subject] = version
    return found


async def versions(connection: Connection, streams: Iterable[Stream]) -> dict[Stream, int]:
    """The last version applied of each stream (and of others of the same subjects); streams never seen are left out."""
    return (await known(connection, {subject for _, subject in streams})).versions


async def save(connection: Connection, changed: Mapping[Stream, int], moves: Moves) -> bool:
    """Store the versions and move each partition from its first position to its second. False when another process
    moved one meanwhile; then the caller must not commit."""
    versions, ordered = sorted(changed.items()), sorted(moves.items())
    moved = await connection.run(
        _SAVE,
        [publisher for (publisher, _), _ in versions],
        [subject for (_, subject), _ in versions],
        [version for _, version in versions],
        [topic for (topic, _), _ in ordered],
        [partition for (_, partition), _ in ordered],
        [before.next_offset for _, (before, _) in ordered],
        [before.incarnation for _, (before, _) in ordered],
        [after.next_offset for _, (_, after) in ordered],
        [after.record_at for _, (_, after) in ordered],
    )
    return moved == len(ordered)


async def parked_for(connection: Connection, subjects: Iterable[UUID]) -> dict[Stream, list[Parked]]:
    """The parked events of these subjects, in version order."""
    rows = await connection.execute(
        text(
            "SELECT publisher, subject, version, topic, partition, record_offset, headers, payload FROM parked_events"
            " WHERE subject = ANY(:subjects) ORDER BY publisher, subject, version"
        ),
        {"subjects": list(set(subjects))},
    )
    parked: dict[Stream, list[Parked]] = {}
    for row in rows:
        record = Record(
            row.topic,
            row.partition,
            row.record_offset,
            str(row.subject).encode(),
            headers_in(bytes(row.headers)),
            row.payload,
        )
        parked.setdefault((row.publisher, row.subject), []).append(Parked(row.version, record))
    return parked


_PARK = """
INSERT INTO parked_events (publisher, subject, version, topic, partition, record_offset, headers, payload, reason)
SELECT * FROM unnest($1::text[], $2::uuid[], $3::int[], $4::text[], $5::int[], $6::bigint[], $7::bytea[], $8::bytea[],
    $9::text[])
ON CONFLICT (publisher, subject, version) DO UPDATE SET reason = excluded.reason
"""
_UNPARK = """
DELETE FROM parked_events AS old USING unnest($1::text[], $2::uuid[], $3::int[]) AS gone(publisher, subject, version)
WHERE old.publisher = gone.publisher AND old.subject = gone.subject AND old.version = gone.version
"""


async def park(connection: Connection, waiting: Mapping[tuple[Stream, int], tuple[Record, str]]) -> None:
    """Keep these events (at least one), by stream and version, with why each waits."""
    rows = [
        (
            *(publisher, subject, version, record.topic, record.partition, record.offset),
            *(headers_out(record.headers), record.value or b"", reason),
        )
        for ((publisher, subject), version), (record, reason) in waiting.items()
    ]
    await connection.run(_PARK, *by_column(rows))


async def unpark(connection: Connection, gone: Iterable[tuple[Stream, int]]) -> None:
    """Forget these (at least one)."""
    rows = [(publisher, subject, version) for (publisher, subject), version in gone]
    await connection.run(_UNPARK, *by_column(rows))


STUCK_COUNTED = 10_000


class Stuck(NamedTuple):
    """What waits for something or somebody: parked events, those parked for long, and dead letters not yet settled.

    Each is counted up to 10,000.
    """

    parked: int
    parked_long: int
    dead: int


async def stuck(connection: Connection) -> Stuck:
    row = (
        await connection.execute(
            text(
                "SELECT (SELECT count(*) FROM (SELECT 1 FROM parked_events LIMIT :most) AS parked),"
                " (SELECT count(*) FROM (SELECT 1 FROM parked_events WHERE parked_at < now() - interval '10 minutes'"
                " LIMIT :most) AS long),"
                " (SELECT count(*) FROM (SELECT 1 FROM dead_letters WHERE state = 'open' LIMIT :most) AS dead)"
            ),
            {"most": STUCK_COUNTED},
        )
    ).one()
    return Stuck(*row)


async def seen_commands(connection: Connection, ids: Iterable[UUID]) -> set[UUID]:
    rows = await connection.execute(
        text("SELECT event_id FROM inbox_commands WHERE event_id = ANY(:ids)"), {"ids": list(ids)}
    )
    return {row[0] for row in rows}


async def remember_commands(connection: Connection, ids: Iterable[UUID]) -> None:
    await connection.execute(
        text("INSERT INTO inbox_commands (event_id) SELECT unnest(CAST(:ids AS uuid[])) ON CONFLICT DO NOTHING"),
        {"ids": list(ids)},
    )


async def positions(connection: Connection) -> dict[tuple[str, int], Position]:
    rows = await connection.execute(
        text("SELECT topic, partition, next_offset, incarnation, record_at FROM consumer_offsets")
    )
    return {(row.topic, row.partition): Position(row.next_offset, row.incarnation, row.record_at) for row in rows}


async def set_position(connection: Connection, topic: str, partition: int, position: Position) -> None:
    await connection.execute(
        text(
            "INSERT INTO consumer_offsets (topic, partition, next_offset, incarnation, record_at)"
            " VALUES (:topic, :partition, :next_offset, :incarnation, :record_at)"
            " ON CONFLICT (topic, partition) DO UPDATE SET next_offset = excluded.next_offset,"
            " incarnation = excluded.incarnation, record_at = excluded.record_at"
        ),
        {"topic": topic, "partition": partition, **position._asdict()},
    )


def record_time(record: Record) -> datetime | None:
    """When the record was sent, as it says itself; None where no calendar has that moment."""
    if record.timestamp_ms is None or record.timestamp_ms < 0:
        return None
    try:
        return datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        # Whoever sent it may have set any moment.
        return None
