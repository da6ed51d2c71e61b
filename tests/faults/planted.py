"""Bugs to plant: each is a well-known way to lose or double events, put in place of what the platform really does.

They exist to show that the checker finds them. Each function changes the program it runs in, for good.
"""

from collections.abc import Callable, Sequence
from typing import Any

from aiokafka import TopicPartition
from sqlalchemy import text

from services.sla.repository import facts
from shared.database.connection import Connection
from shared.database.leases import Leases
from shared.failpoints import reach
from shared.messaging import batch, consumer, inbox, relay
from shared.messaging.events import Event, Record

_OUTBOX_COLUMNS = (
    "SELECT id, created_at, topic, subject, version, event_id, type, time, traceparent, headers, payload,"
    " clock_timestamp() AS read_at, xmin::text::bigint AS xid FROM outbox"
)
# An open transaction whose number is not yet given may still write, so "before the oldest open one" is asked for here.
_OLDEST_OPEN = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


def _relay_from(query: str, after: Callable[[Any], dict[str, Any]], first: dict[str, Any]) -> None:
    """A relay which remembers how far it came, instead of asking what is not yet published."""
    place = dict(first)

    async def publish_next(self: relay.Relay) -> int:
        async def following(connection: Connection) -> list[Any]:
            found = await connection.execute(text(query), {"batch": relay.BATCH, **place})
            return list(found.all())

        rows = await self._database.read(following)
        if not rows:
            return 0
        sent, failure = await self._send(rows)
        if failure is not None:
            raise failure
        async with self._database.transaction() as transaction:
            await transaction.connection.execute(
                text("UPDATE outbox SET published_at = clock_timestamp() WHERE id = ANY(:ids)"),
                {"ids": [row.id for row in sent]},
            )
        place.update(after(rows[-1]))
        return len(rows)

    relay.Relay._pass = publish_next  # type: ignore[method-assign]


def relay_by_last_id() -> None:
    """Rule A: "everything after the last id". An earlier id that commits later is never seen."""
    _relay_from(
        f"{_OUTBOX_COLUMNS} WHERE id > :last ORDER BY id LIMIT :batch", lambda row: {"last": row.id}, {"last": 0}
    )


def relay_by_transaction() -> None:
    """Rule B: in the order of (transaction, id) below the oldest open one. Loses nothing, but the order in a ticket."""
    _relay_from(
        f"{_OUTBOX_COLUMNS} WHERE published_at IS NULL AND (xmin::text::bigint, id) > (:xid, :last)"
        f" AND xmin::text::bigint < {_OLDEST_OPEN}"
        " ORDER BY xmin::text::bigint, id LIMIT :batch",
        lambda row: {"xid": row.xid, "last": row.id},
        {"xid": 0, "last": 0},
    )


def relay_up_to_open() -> None:
    """Rule D: in id order, stopping at the first row of a transaction not older than the oldest open one."""
    _relay_from(
        f"WITH following AS ({_OUTBOX_COLUMNS} WHERE id > :last ORDER BY id LIMIT :batch) SELECT * FROM following"
        f" WHERE id < coalesce((SELECT min(id) FROM following WHERE xid >= {_OLDEST_OPEN}), 9223372036854775807)"
        " ORDER BY id",
        lambda row: {"last": row.id},
        {"last": 0},
    )


def commit_before_apply() -> None:
    """The offset moves first, in a transaction of its own; a crash before the effects loses them."""
    really_apply = consumer.Consumer._apply

    async def apply(self: consumer.Consumer[Any], records: Sequence[Record]) -> None:
        moves = self._moves(records)
        async with self._database.transaction() as transaction:
            await inbox.save(transaction.connection, {}, moves)
        for (topic, number), (_, after) in moves.items():
            self._positions[TopicPartition(topic, number)] = after
        reach("planted.offset_stored")
        self._moves = lambda _: {}  # type: ignore[method-assign, assignment]
        try:
            await really_apply(self, records)
        finally:
            del self._moves

    consumer.Consumer._apply = apply  # type: ignore[method-assign]


def offset_stored_apart() -> None:
    """The offset follows the effects in a second transaction, and nothing else tells what was applied."""
    no_version_check()
    really_apply = consumer.Consumer._apply

    async def apply(self: consumer.Consumer[Any], records: Sequence[Record]) -> None:
        moves = self._moves(records)
        self._moves = lambda _: {}  # type: ignore[method-assign, assignment]
        try:
            await really_apply(self, records)
        finally:
            del self._moves
        reach("planted.effects_stored")
        async with self._database.transaction() as transaction:
            await inbox.save(transaction.connection, {}, moves)
        for (topic, number), (_, after) in moves.items():
            self._positions[TopicPartition(topic, number)] = after

    consumer.Consumer._apply = apply  # type: ignore[method-assign]


def no_version_check() -> None:
    """Every record that comes is applied, seen before or not."""
    really_take = batch.Batch.take

    def take(self: batch.Batch[Any], state: Any, event: Event) -> None:
        stream = (event.publisher, event.subject)
        last = self.versions.get(stream, 0)
        if event.version is None or event.version > last:
            really_take(self, state, event)
            return
        self._try(state, event)
        self.versions[stream] = self._changed[stream] = last

    batch.Batch.take = take  # type: ignore[method-assign]


def parked_ticket_skipped() -> None:
    """An event that is ahead is applied at once, and what it overtook counts as seen."""
    really_take = batch.Batch.take

    def take(self: batch.Batch[Any], state: Any, event: Event) -> None:
        if event.version is not None:
            stream = (event.publisher, event.subject)
            self.versions[stream] = max(self.versions.get(stream, 0), event.version - 1)
        really_take(self, state, event)

    batch.Batch.take = take  # type: ignore[method-assign]


def fire_without_lock() -> None:
    """The sweep reads what is due without a lock and every process sweeps, so two fire the same moment."""

    async def always(self: Leases, role: str) -> bool:
        return True

    facts.LOCK_FREE = facts.LOOK
    Leases.leads = always  # type: ignore[method-assign]


PLANTS: dict[str, Callable[[], None]] = {
    plant.__name__: plant
    for plant in (
        relay_by_last_id,
        relay_by_transaction,
        relay_up_to_open,
        commit_before_apply,
        offset_stored_apart,
        no_version_check,
        parked_ticket_skipped,
        fire_without_lock,
    )
}
