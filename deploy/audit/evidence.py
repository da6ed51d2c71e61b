"""What an audit knows: a private SQLite file with the slim facts read from the databases, the log and the journal.

The readers (`databases.py`, `topics.py`, `journal.py`) fill it, the invariants only ask it; so a check is a query over
facts of all four services at once, on disk rather than in memory. Moments are microseconds since 1970 (UTC).
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

SERVICES = ("intake", "review", "dispatch", "sla")

SCHEMA = """
CREATE TABLE outbox (service, id, stream, topic, subject, version, event_id, type, created, published, digest,
                     branch, redispatched, round, kind, cycle, fired_at, rung);
CREATE TABLE subjects (service, subject, stream, version);
CREATE TABLE inbox (service, subject, publisher, version);
CREATE TABLE commands (service, event_id);
CREATE TABLE parked (service, subject, publisher, version, topic, reason);
CREATE TABLE dead (service, id, topic, partition, position, subject, publisher, version, event_id, error, failed_at,
                   digest, state);
CREATE TABLE positions (service, topic, partition, next_offset, incarnation);
CREATE TABLE keys (service, client, key, status, ticket_id);
CREATE TABLE erased (service, subject);
CREATE TABLE tickets (ticket_id, ticket_no, status, review_status, order_status, branch, repeats);
CREATE TABLE timeline (ticket_id, event_id, service, type);
CREATE TABLE reviews (ticket_id, status, round, priority);
CREATE TABLE orders (ticket_id, status, round, branch, rung, calls);
CREATE TABLE callbacks (ticket_id, calls);
CREATE TABLE facts (ticket_id, ended, archived, branch, incident_id);
CREATE TABLE cycles (ticket_id, kind, cycle);
CREATE TABLE clocks (clock_id, ticket_id, kind, cycle, state, boundary, soft, moved, due_at, warn_at, next_at,
                     warned_at, breached_at, stopped_at);
CREATE TABLE escalations (ticket_id, raised);
CREATE TABLE incidents (incident_id, member_count);
CREATE TABLE audit_rows (service, event_id);
CREATE TABLE records (topic, partition, position, at, event_id, subject, publisher, version, branch, digest, bytes,
                      dead_service, dead_topic, dead_partition, dead_position);
CREATE TABLE partitions (topic, partition, first, end, first_at);
CREATE TABLE ends (topic, partition, end);
CREATE TABLE requests (key, action, outcome, ticket_id, ticket_no, sent_at);
CREATE TABLE replayed (service, subject, state, shown, rounds, reopened, illegal);
CREATE TABLE held (service, subject);
"""

INDEXES = """
CREATE INDEX outbox_event ON outbox (event_id);
CREATE INDEX outbox_subject ON outbox (service, stream, subject, version);
CREATE INDEX outbox_type ON outbox (type, subject);
CREATE INDEX inbox_subject ON inbox (service, publisher, subject);
CREATE INDEX subjects_subject ON subjects (service, stream, subject);
CREATE INDEX timeline_event ON timeline (event_id);
CREATE INDEX tickets_id ON tickets (ticket_id);
CREATE INDEX tickets_no ON tickets (ticket_no);
CREATE INDEX reviews_id ON reviews (ticket_id);
CREATE INDEX orders_id ON orders (ticket_id);
CREATE INDEX callbacks_id ON callbacks (ticket_id);
CREATE INDEX facts_id ON facts (ticket_id);
CREATE INDEX clocks_run ON clocks (ticket_id, kind, cycle);
CREATE INDEX escalations_id ON escalations (ticket_id);
CREATE INDEX records_event ON records (event_id);
CREATE INDEX records_stream ON records (topic, publisher, subject, position);
CREATE INDEX records_dead ON records (dead_service, dead_topic, dead_partition, dead_position);
CREATE INDEX keys_key ON keys (key);
CREATE INDEX commands_id ON commands (event_id);
CREATE INDEX dead_event ON dead (event_id);
CREATE INDEX dead_subject ON dead (service, publisher, subject);
CREATE INDEX audit_event ON audit_rows (event_id);
CREATE INDEX replayed_subject ON replayed (service, subject);
INSERT INTO held SELECT service, subject FROM parked
    UNION SELECT service, subject FROM dead WHERE subject IS NOT NULL AND state <> 'redriven'
    AND topic <> 'gongdan.branch.replies';
CREATE INDEX held_subject ON held (service, subject);
CREATE INDEX erased_subject ON erased (subject);
CREATE INDEX tickets_repeats ON tickets (repeats);
CREATE INDEX keys_ticket ON keys (ticket_id);
CREATE INDEX requests_key ON requests (key);
"""


def born(identifier: str | None) -> int | None:
    """When a UUIDv7 was made (RFC 9562), in microseconds; None for any other identifier."""
    if identifier is None or len(identifier) != 36 or identifier[14] != "7":
        return None
    return int(identifier[:8] + identifier[9:13], 16) * 1000


def micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


@dataclass
class Scope:
    """What the run is like, beside the rows: whether it is quiet, and since when everything is kept.

    `kept_from`: subjects made earlier may have lost their first events to the outbox's retention. `log_from`: the log
    begins there; what was published before stood in another one. `scale` is business seconds in a real second.
    `stuck` are the things that did not move while the audit waited for quiet. `connections` are the findings of
    invariant 12, `personal` those of 11, both made while reading.
    """

    quiet: bool = True
    unrest: str = ""
    kept_from: int = 0
    log_from: int = 0
    incarnation: str | None = None
    scale: float = 1.0
    origin: int = 0
    now: int = 0
    journal: bool = False
    copies: int | None = None
    stuck: list[str] = field(default_factory=list)
    searched: int = 0
    leaked: int = 0
    personal: list[str] = field(default_factory=list)
    audited_from: dict[str, int] = field(default_factory=dict)
    sealed: int = 0
    chain_faults: list[str] = field(default_factory=list)
    unsealed: list[str] = field(default_factory=list)
    connections: int = 0
    leaks: list[str] = field(default_factory=list)

    def business(self, real: int) -> int:
        """The business time at a real moment, both in microseconds."""
        return real if self.scale == 1 else round(self.origin + (real - self.origin) * self.scale)


class Evidence:
    """The facts of one audit. Deleted when closed."""

    def __init__(self) -> None:
        # An empty name is a temporary file of SQLite's own, removed with the connection.
        self._facts = sqlite3.connect("")
        self._facts.row_factory = sqlite3.Row
        self._facts.create_function("born", 1, born, deterministic=True)
        self._facts.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -200000;")
        self._facts.executescript(SCHEMA)
        self.scope = Scope()

    def add(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        """Store rows with a value for each column of the table, in its order."""
        width = len(self._facts.execute(f"SELECT * FROM {table} LIMIT 0").description)
        marks = ", ".join("?" * width)
        self._facts.executemany(f"INSERT INTO {table} VALUES ({marks})", (tuple(row) for row in rows))

    def complete(self) -> None:
        """All is read: make the questions fast.

        `held` are the tickets of which a service waits for an event, or gave one up. A refused command holds nothing.
        """
        self._facts.executescript(INDEXES)
        self._facts.execute("ANALYZE")

    def rows(self, query: str, **values: Any) -> Iterator[sqlite3.Row]:
        yield from self._facts.execute(query, values)

    def count(self, query: str, **values: Any) -> int:
        return int(self._facts.execute(query, values).fetchone()[0])

    def derive(self, table: str, query: str, **values: Any) -> None:
        """Keep the answer to a question under a name, for further questions."""
        self._facts.execute(f"DROP TABLE IF EXISTS temp.{table}")
        self._facts.execute(f"CREATE TEMP TABLE {table} AS {query}", values)

    def change(self, statement: str, **values: Any) -> int:
        """Alter what was read, so that a test can plant a fault. The number of rows changed."""
        return self._facts.execute(statement, values).rowcount

    def close(self) -> None:
        self._facts.close()
