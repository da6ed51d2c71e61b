"""The whole log of some topics, read from its beginning into a table, to be taken out in the order of time.

It reads beside the service's consumer, without a group and without moving any stored position.
"""

from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from sqlalchemy import text

from shared.contracts.envelope import MalformedEnvelope, read_envelope
from shared.contracts.topics import producers_of, topic_file
from shared.database.engine import Database
from shared.errors import Conflict
from shared.messaging.erasure import erased_of
from shared.messaging.events import Record
from shared.messaging.inbox import headers_in, headers_out

READ_AT_ONCE = 2_000
TAKEN_AT_ONCE = 500
FETCH_MS = 500
FETCH_BYTES = 512 * 1024

_KEEP = text(
    "INSERT INTO history (subject, publisher, version, time, topic, partition, record_offset, headers, payload)"
    " VALUES (:subject, :publisher, :version, :time, :topic, :partition, :offset, :headers, :payload)"
    " ON CONFLICT DO NOTHING"
)
_TAKE = text(
    "WITH next AS (SELECT time, publisher, subject, version FROM history"
    " ORDER BY time, publisher, subject, version LIMIT :count)"
    " DELETE FROM history USING next WHERE history.time = next.time AND history.publisher = next.publisher"
    " AND history.subject = next.subject AND history.version = next.version"
    " RETURNING history.time, history.publisher, history.subject, history.version, topic, partition, record_offset,"
    " headers, payload"
)


class History:
    """Reads on from where it stopped each time. Closed by whoever made it."""

    TABLE = (
        "CREATE UNLOGGED TABLE {schema}.history (time timestamptz, publisher text, subject uuid, version integer,"
        " topic text NOT NULL, partition integer NOT NULL, record_offset bigint NOT NULL, headers bytea NOT NULL,"
        " payload bytea, PRIMARY KEY (time, publisher, subject, version))"
    )

    def __init__(self, consumer: AIOKafkaConsumer, topics: Sequence[str]) -> None:
        """`consumer` has no group and is not started."""
        self._consumer = consumer
        self._partitions = [
            TopicPartition(topic.name, number)
            for topic in topic_file().topics
            if topic.name in topics
            for number in range(topic.partitions)
        ]
        self._next: dict[TopicPartition, int] = {}

    async def __aenter__(self) -> "History":
        try:
            await self._consumer.start()
        except BaseException:
            await self._consumer.stop()
            raise
        self._consumer.assign(self._partitions)
        self._next = dict(await self._consumer.beginning_offsets(self._partitions))
        for partition, offset in self._next.items():
            self._consumer.seek(partition, offset)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def read_on(self, shadow: Database) -> int:
        """Keep what came since, up to the ends of now; how many records. Raises `Conflict` at an unreadable one."""
        ends = await self._consumer.end_offsets(self._partitions)
        count = 0
        while any(self._next[partition] < end for partition, end in ends.items()):
            try:
                fetched = await self._consumer.getmany(timeout_ms=FETCH_MS, max_records=READ_AT_ONCE)
            except UnicodeDecodeError:
                raise Conflict("log_not_readable", "the log holds a record that no client can read") from None
            records = [Record.read(raw) for raws in fetched.values() for raw in raws]
            for record in records:
                self._next[TopicPartition(record.topic, record.partition)] = record.offset + 1
            count += len(records)
            await self._keep(shadow, records)
            if not records:
                # Behind the last record there may be offsets that no client is given (aborted or compacted ones).
                self._next |= {each: await self._consumer.position(each) for each in self._partitions}
        return count

    async def _keep(self, shadow: Database, records: Sequence[Record]) -> None:
        rows: list[dict[str, Any]] = []
        for record in records:
            try:
                envelope = read_envelope(record.headers)
            except MalformedEnvelope:
                continue
            if envelope.sequence is None or envelope.publisher not in producers_of(record.topic):
                continue
            rows.append(
                {
                    "subject": envelope.subject,
                    "publisher": envelope.publisher,
                    "version": envelope.sequence,
                    "time": envelope.time,
                    "topic": record.topic,
                    "partition": record.partition,
                    "offset": record.offset,
                    "headers": headers_out(record.headers),
                    "payload": record.value,
                }
            )
        if rows:
            async with shadow.transaction() as transaction:
                erased = await erased_of(transaction.connection, {row["subject"] for row in rows})
                if kept := [row for row in rows if row["subject"] not in erased]:
                    await transaction.connection.execute(_KEEP, kept)

    async def take(self, shadow: Database) -> list[Record]:
        """The next records by time, which leave the table; none when it is empty."""
        async with shadow.transaction() as transaction:
            rows = (await transaction.connection.execute(_TAKE, {"count": TAKEN_AT_ONCE})).all()
        rows = sorted(rows, key=lambda row: (row.time, row.publisher, row.subject, row.version))
        return [
            Record(
                row.topic,
                row.partition,
                row.record_offset,
                str(row.subject).encode(),
                headers_in(bytes(row.headers)),
                None if row.payload is None else bytes(row.payload),
            )
            for row in rows
        ]
