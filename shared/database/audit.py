"""The chain over the audit trail: seals that hold the digests of its rows, each with the hash of the seal before.

The trail refuses changes by trigger, which whoever owns the database can switch off; the chain makes such a change
show. `seal` covers what is new, `verify` names whatever was altered, deleted, slipped in or cut off since.

What must stay true:
* a seal takes rows of transactions that have ended only, in the order (xid, id), so that no row can still come behind
  the last seal however long its transaction took;
* the number of a seal is its primary key: two sealers at once cannot fork the chain;
* `digest` and `_hash` never change, or every chain written so far breaks.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import BaseModel
from sqlalchemy import text

from shared.database.connection import Connection

GENESIS = bytes(32)
DIGEST_BYTES = 16
ROWS_A_SEAL = 2_000
_DIGESTS_AT_ONCE = 100 * DIGEST_BYTES
# What a step of the check holds in memory, and how long it keeps the other work of a process waiting.
ROWS_A_STEP = 4_000
SEALS_A_STEP = 200
FAULTS_NAMED = 100

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BEGINNING = (-1, -1)

_LAST = text("SELECT number, last_xid, last_id, hash, clock_timestamp() FROM audit_seals ORDER BY number DESC LIMIT 1")
_FINISHED = text(
    "SELECT id, xid, at, actor, action, subject, details FROM audit_trail WHERE (xid, id) > (:xid, :id)"
    " AND xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint ORDER BY xid, id LIMIT :count"
)
_ADD = text(
    "INSERT INTO audit_seals (number, sealed_at, last_xid, last_id, ids, digests, previous, hash) VALUES"
    " (:number, :sealed_at, :last_xid, :last_id, :ids, :digests, :previous, :hash) ON CONFLICT DO NOTHING"
)
_WAITING = text(
    "SELECT at, clock_timestamp() - at AS age FROM audit_trail WHERE (xid, id) > (:xid, :id) ORDER BY xid, id LIMIT 1"
)
_SEAL = text("SELECT number, last_xid, last_id, hash FROM audit_seals WHERE number = :number")
_SEALS = text(
    "SELECT * FROM (SELECT *, sum(cardinality(ids)) OVER (ORDER BY number) AS total FROM (SELECT * FROM audit_seals"
    " WHERE number >= :number ORDER BY number LIMIT :seals) AS coming) AS counted"
    " WHERE total <= :rows OR number = (SELECT min(number) FROM audit_seals WHERE number >= :number) ORDER BY number"
)
_RANGE = text(
    "SELECT id, xid, at, actor, action, subject, details FROM audit_trail"
    " WHERE (xid, id) > (:from_xid, :from_id) AND (xid, id) <= (:to_xid, :to_id) ORDER BY xid, id LIMIT :count"
)
_BY_ID = text("SELECT id, xid, at, actor, action, subject, details FROM audit_trail WHERE id = ANY(:ids)")
_UNHELD = text(
    "SELECT id FROM unnest(CAST(:ids AS bigint[])) AS id"
    " WHERE NOT EXISTS (SELECT 1 FROM audit_seals WHERE id = ANY(ids)) ORDER BY id"
)
_TAIL = text(
    "SELECT count(*) AS waiting, coalesce(extract(epoch FROM clock_timestamp() - min(at)), 0) AS oldest,"
    " array_agg(id) FILTER (WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint) AS ahead"
    " FROM audit_trail WHERE (xid, id) > (:xid, :id)"
)


class Head(BaseModel):
    """The last seal. Note it elsewhere: whoever cuts off the tail of the chain cannot change what you noted."""

    number: int
    hash: str

    @classmethod
    def read(cls, written: str) -> "Head":
        """From `number:hash`. Raises `ValueError`."""
        number, _, digest = written.partition(":")
        if not number.isdecimal() or len(bytes.fromhex(digest)) != len(GENESIS):
            raise ValueError("a head is written number:hash")
        return cls(number=int(number), hash=digest.lower())

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


class Sealed(NamedTuple):
    """What one pass did: the rows it sealed, the head now, and the age of the oldest row without a seal (seconds)."""

    rows: int
    head: Head | None
    oldest_unsealed_seconds: float


class FaultKind(StrEnum):
    row_altered = "row_altered"
    row_deleted = "row_deleted"
    row_inserted = "row_inserted"
    seal_altered = "seal_altered"
    seal_missing = "seal_missing"
    other_chain = "other_chain"


class Fault(BaseModel):
    """One thing that is not as it was written. `row` is the row's id in `audit_trail`, `seal` the seal's number."""

    kind: FaultKind
    detail: str
    seal: int | None = None
    row: int | None = None


class AuditReport(BaseModel):
    """What `verify` found. `faults` names the first 100; then it stops."""

    intact: bool
    seals: int
    rows: int
    unsealed: int
    oldest_unsealed_seconds: float
    head: Head | None
    faults: list[Fault]


def digest(row: Any) -> bytes:
    """16 bytes that stand for a row: every field by its length and its bytes, so that no two rows can look alike."""
    whole = hashlib.sha256()
    for value in (row.id, row.xid, _micros(row.at), row.actor, row.action, row.subject, row.details):
        field = str(value).encode()
        whole.update(len(field).to_bytes(4) + field)
    return whole.digest()[:DIGEST_BYTES]


async def _digests(rows: Sequence[Any]) -> bytes:
    """Of many rows, and others get their turn in between: those of a full seal held everybody up for 5 ms."""
    found = bytearray()
    for row in rows:
        if len(found) % _DIGESTS_AT_ONCE == 0:
            await asyncio.sleep(0)
        found += digest(row)
    return bytes(found)


async def seal(connection: Connection) -> Sealed:
    """Seal the next rows, at most 2,000. The caller commits.

    When another process wrote the same seal first, nothing is done and the next pass goes on behind it.
    """
    last = (await connection.execute(_LAST)).first()
    number, at, previous = (last.number, (last.last_xid, last.last_id), bytes(last.hash)) if last else (0, None, None)
    head = Head(number=number, hash=previous.hex()) if previous is not None else None
    xid, row_id = at or _BEGINNING
    rows = (await connection.execute(_FINISHED, {"xid": xid, "id": row_id, "count": ROWS_A_SEAL})).all()
    added = 0
    if rows:
        now = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
        values = {
            "number": number + 1,
            "sealed_at": now,
            "last_xid": rows[-1].xid,
            "last_id": rows[-1].id,
            "ids": [row.id for row in rows],
            "digests": await _digests(rows),
            "previous": previous or GENESIS,
        }
        values["hash"] = _hash(**values)
        if (await connection.execute(_ADD, values)).rowcount:
            added, head = len(rows), Head(number=number + 1, hash=values["hash"].hex())
            xid, row_id = rows[-1].xid, rows[-1].id
    waiting = (await connection.execute(_WAITING, {"xid": xid, "id": row_id})).first()
    return Sealed(added, head, max(0.0, waiting.age.total_seconds()) if waiting else 0.0)


async def verify(connection: Connection, *, expect: Head | None = None, first: int = 1) -> AuditReport:
    """Compare the whole trail, from the seal `first` on, with its chain; in steps, whatever its size.

    `expect` is a head noted earlier: with it a chain whose tail was cut off, or that was written anew, shows.
    """
    check = _Verification(connection)
    if expect is not None:
        await check.expect(expect)
    await check.run(first)
    waiting, oldest = await check.tail()
    return AuditReport(
        intact=not check.faults,
        seals=check.seals,
        rows=check.rows,
        unsealed=waiting,
        oldest_unsealed_seconds=oldest,
        head=check.head,
        faults=check.faults[:FAULTS_NAMED],
    )


class _Verification:
    """One walk along the chain."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._previous: bytes | None = GENESIS
        self._at = _BEGINNING
        self.faults: list[Fault] = []
        self.seals = 0
        self.rows = 0
        self.head: Head | None = None

    async def expect(self, head: Head) -> None:
        found = (await self._connection.execute(_SEAL, {"number": head.number})).first()
        if found is None:
            self._fault(FaultKind.seal_missing, f"seal {head.number} is gone, with all behind it", seal=head.number)
        elif bytes(found.hash).hex() != head.hash:
            self._fault(FaultKind.other_chain, f"seal {head.number} is not the one that was noted", seal=head.number)

    async def run(self, first: int) -> None:
        number = max(first, 1)
        if number > 1:
            before = (await self._connection.execute(_SEAL, {"number": number - 1})).first()
            if before is None:
                self._fault(FaultKind.seal_missing, f"seal {number - 1} is gone", seal=number - 1)
                return
            self._previous, self._at = bytes(before.hash), (before.last_xid, before.last_id)
            self.head = Head(number=number - 1, hash=self._previous.hex())
        step = {"seals": SEALS_A_STEP, "rows": ROWS_A_STEP}
        while len(self.faults) < FAULTS_NAMED:
            seals = (await self._connection.execute(_SEALS, {"number": number, **step})).all()
            if not seals:
                return
            whole = await asyncio.to_thread(self._check_seals, seals, number)
            await self._check_rows(seals, whole=whole)
            number = seals[-1].number + 1

    def _check_seals(self, seals: Sequence[Any], expected: int) -> bool:
        """The seals by themselves. False when one is missing, so that its rows have no seal for a known reason."""
        whole = True
        for found in seals:
            if found.number != expected:
                gone = str(expected) if found.number == expected + 1 else f"{expected} to {found.number - 1}"
                self._fault(FaultKind.seal_missing, f"seal {gone} is gone", seal=expected)
                self._previous, whole = None, False
            elif bytes(found.previous) != self._previous:
                self._fault(FaultKind.seal_altered, "it does not follow from the seal before it", seal=found.number)
            fields = ("number", "sealed_at", "last_xid", "last_id", "ids", "digests", "previous")
            if _hash(**{name: getattr(found, name) for name in fields}) != bytes(found.hash):
                self._fault(FaultKind.seal_altered, "its hash does not fit what it holds", seal=found.number)
            self._previous = bytes(found.hash)
            expected = found.number + 1
            self.seals += 1
            self.head = Head(number=found.number, hash=self._previous.hex())
        return whole

    async def _check_rows(self, seals: Sequence[Any], *, whole: bool) -> None:
        """The rows that these seals hold, and the rows between them that none holds.

        Never many more rows at once than the seals name, whatever was put in between them or lies before them.
        """
        last = seals[-1]
        held = [row_id for found in seals for row_id in found.ids]
        rows: dict[int, Any] = {}
        if whole:
            limits = {"from_xid": self._at[0], "from_id": self._at[1], "to_xid": last.last_xid, "to_id": last.last_id}
            count = {"count": len(held) + FAULTS_NAMED}
            rows = {row.id: row for row in (await self._connection.execute(_RANGE, limits | count)).all()}
        if missing := [row_id for row_id in held if row_id not in rows]:
            rows |= {row.id: row for row in (await self._connection.execute(_BY_ID, {"ids": missing})).all()}
        for found in seals:
            # Beside the event loop, a seal at a time: 10 µs a row add up.
            await asyncio.to_thread(self._compare, found, rows)
        if rows and whole:
            unheld = (await self._connection.execute(_UNHELD, {"ids": sorted(rows)[:FAULTS_NAMED]})).scalars()
            self._inserted(unheld, "was put in behind the last seal")
        self._at = (last.last_xid, last.last_id)

    def _compare(self, found: Any, rows: dict[int, Any]) -> None:
        """A seal with its rows, which it takes out of `rows`."""
        digests = bytes(found.digests)
        for index, row_id in enumerate(found.ids):
            row = rows.pop(row_id, None)
            if row is None:
                self._fault(FaultKind.row_deleted, f"row {row_id} is gone", seal=found.number, row=row_id)
            elif digest(row) != digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]:
                self._fault(FaultKind.row_altered, f"row {row_id} was altered", seal=found.number, row=row_id)
        self.rows += len(found.ids)

    async def tail(self) -> tuple[int, float]:
        """Rows that wait for a seal: how many, and the age of the oldest in seconds."""
        row = (await self._connection.execute(_TAIL, {"xid": self._at[0], "id": self._at[1]})).one()
        self._inserted(row.ahead or (), "bears a transaction number that does not exist yet")
        return int(row.waiting), max(0.0, float(row.oldest))

    def _inserted(self, ids: Iterable[int], what: str) -> None:
        for row_id in ids:
            self._fault(FaultKind.row_inserted, f"row {row_id} {what}", row=row_id)

    def _fault(self, kind: FaultKind, detail: str, *, seal: int | None = None, row: int | None = None) -> None:
        self.faults.append(Fault(kind=kind, detail=detail, seal=seal, row=row))


def _hash(
    *,
    number: int,
    sealed_at: datetime,
    last_xid: int,
    last_id: int,
    ids: Sequence[int],
    digests: bytes,
    previous: bytes,
) -> bytes:
    numbers = (number, _micros(sealed_at), last_xid, last_id, len(ids), *ids)
    fixed = b"".join(value.to_bytes(8, signed=True) for value in numbers)
    return hashlib.sha256(fixed + digests + previous).digest()


def _micros(moment: datetime) -> int:
    """Microseconds since 1970, UTC: what PostgreSQL stores, without a way of writing it."""
    return (moment - _EPOCH) // timedelta(microseconds=1)
