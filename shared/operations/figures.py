"""What stands where in one service: parked events, positions and lag, pauses, and a summary. Reads only."""

from datetime import datetime
from typing import Any

from aiokafka import TopicPartition
from pydantic import BaseModel
from sqlalchemy import text

from shared.database.connection import Connection
from shared.database.engine import Database
from shared.messaging import inbox, outbox, pauses
from shared.messaging.log_watch import LogWatch

BACKLOG_BOUND = 300_000

_PARKED = text(
    "SELECT parked.publisher, parked.subject, parked.version, parked.topic, parked.reason, parked.parked_at,"
    " extract(epoch FROM clock_timestamp() - parked.parked_at) AS seconds, coalesce(inbox.version, 0) AS applied,"
    " ARRAY(SELECT id FROM dead_letters WHERE state = 'open' AND record_key = convert_to(parked.subject::text, 'UTF8')"
    " ORDER BY id LIMIT 10) AS letters"
    " FROM parked_events AS parked LEFT JOIN inbox USING (publisher, subject)"
    " WHERE (CAST(:subject AS uuid) IS NULL OR parked.subject = :subject)"
    " ORDER BY parked.parked_at, parked.publisher, parked.subject, parked.version LIMIT :limit"
)


class ParkedEvent(BaseModel):
    """An event that waits. `applied_version`: how far this publisher's events of the subject took effect;
    `dead_letters`: open ones of the same subject, which may be what it waits for."""

    publisher: str
    subject: str
    version: int
    topic: str
    reason: str
    parked_at: datetime
    waited_seconds: float
    applied_version: int
    dead_letters: list[int]


class Standing(BaseModel):
    """Where reading stands in one partition. `end` and `lag` are None while the broker does not answer; `applied_at` is
    the broker's time of the last applied record (real time)."""

    topic: str
    partition: int
    next_offset: int
    end: int | None
    lag: int | None
    incarnation: str
    same_log: bool | None
    applied_at: datetime | None
    paused: bool


class PausedTopic(BaseModel):
    """A topic (`*`: every one) that is not read for now. `by_itself`: after too many dead letters in a row."""

    topic: str
    paused_at: datetime
    paused_by: str
    reason: str
    by_itself: bool


class Summary(BaseModel):
    """One service at a glance. `backlog` counts events not yet published; `lag` is None while the broker is away."""

    service: str
    backlog: int
    backlog_oldest_seconds: float
    lag: int | None
    dead_open: int
    parked: int
    parked_long: int
    paused: list[PausedTopic]
    broker_reachable: bool
    incarnation: str | None


async def parked(connection: Connection, subject: Any, limit: int) -> list[ParkedEvent]:
    """Parked events, those that wait longest first; `subject` (a ticket's id) may be None for all."""
    rows = await connection.execute(_PARKED, {"subject": subject, "limit": limit})
    return [
        ParkedEvent(
            publisher=row.publisher,
            subject=str(row.subject),
            version=row.version,
            topic=row.topic,
            reason=row.reason,
            parked_at=row.parked_at,
            waited_seconds=round(float(row.seconds), 1),
            applied_version=row.applied,
            dead_letters=row.letters,
        )
        for row in rows
    ]


async def standings(database: Database, watch: LogWatch) -> list[Standing]:
    """Every partition that was ever read; the log's ends are asked now, on either broker."""
    stored = await database.read(inbox.positions)
    found = await database.read(pauses.pauses)
    ends = await watch.ends([TopicPartition(topic, number) for topic, number in stored])
    standing = []
    for (topic, number), at in sorted(stored.items()):
        end = ends.get(TopicPartition(topic, number))
        same_log = None if watch.incarnation is None else watch.incarnation == at.incarnation
        standing.append(
            Standing(
                topic=topic,
                partition=number,
                next_offset=at.next_offset,
                end=end,
                # In another log everything is still to be read.
                lag=None if end is None else end if same_log is False else max(0, end - at.next_offset),
                incarnation=at.incarnation,
                same_log=same_log,
                applied_at=at.record_at,
                paused=pauses.pause_of(found, topic) is not None,
            )
        )
    return standing


async def paused(connection: Connection) -> list[PausedTopic]:
    found = await pauses.pauses(connection)
    return [
        PausedTopic(**each._asdict(), by_itself=each.paused_by == pauses.STOPPED_BY)
        for _, each in sorted(found.items())
    ]


async def unread(database: Database, watch: LogWatch) -> int | None:
    """The records of topics not paused that no process of this service has applied yet; None while that is not known:
    the broker does not answer, or the log is another one."""
    standing = [each for each in await standings(database, watch) if not each.paused]
    lags = [each.lag for each in standing if each.lag is not None and each.same_log]
    return sum(lags) if len(lags) == len(standing) else None


async def summary(service: str, database: Database, watch: LogWatch) -> Summary:
    stuck = await database.read(inbox.stuck)
    backlog = await database.read(lambda connection: outbox.backlog(connection, BACKLOG_BOUND))
    lags = [each.lag for each in await standings(database, watch)]
    known = [lag for lag in lags if lag is not None]
    return Summary(
        service=service,
        backlog=backlog.waiting,
        backlog_oldest_seconds=round(backlog.oldest_seconds, 1),
        lag=sum(known) if len(known) == len(lags) else None,
        dead_open=stuck.dead,
        parked=stuck.parked,
        parked_long=stuck.parked_long,
        paused=await database.read(paused),
        broker_reachable=watch.reachable,
        incarnation=watch.incarnation,
    )
