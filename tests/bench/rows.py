"""Stored tickets by the million: some that really went through the platform, copied by each database itself.

`INSERT … SELECT` from the rows of template tickets times `generate_series`, so that every column, text and size is one
that the services wrote, whatever their tables look like. Not by COPY: for the tables of intake, dispatch and sla that
takes the server 62 µs a ticket in binary and 95 as text, this way 78 (every JSON text is parsed anew, but the rows of
a page are stored together), and the 10 KB of a ticket would first have to be made: 30 µs, if PostgreSQL itself does it.

A copy has an id, a number and a customer of its own, the same in all four databases, and a place in the past: ids are
UUIDv7 like ours, so the copies lie in the tables in the order of time, as real ones do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

SPAN_MS = 2 * 365 * 86_400_000
"""The copies were accepted over two years, evenly …"""
GRACE_MS = 8 * 86_400_000
"""… up to eight days ago (milliseconds), when no topic and no outbox keeps their events any more."""
RECENT_SHARE = 100
"""What is kept for a week has this part of the tickets: 8 of 730 days."""
TICKETS_A_CUSTOMER = 3
PROBLEMS = 5_000
CHUNK = 10_000
"""Tickets a statement: 40 MB of the widest table, which the server's buffers hold until it is vacuumed."""


class Copies(NamedTuple):
    """`total` tickets, of which the n-th was accepted at `first_ms + n * SPAN_MS / total` (Unix milliseconds)."""

    total: int
    first_ms: int

    @property
    def at_ms(self) -> str:
        return f"({self.first_ms} + n * {SPAN_MS} / {self.total})"

    @property
    def id(self) -> str:
        """A UUIDv7 of its acceptance with its number in the place of the random bits."""
        return (
            f"(lpad(to_hex({self.at_ms}), 12, '0') || '7' || lpad(to_hex(n % 4096), 3, '0')"
            " || '8' || lpad(to_hex(n), 15, '0'))::uuid"
        )

    @property
    def number(self) -> str:
        """As long as a real one, and another for each first moment."""
        return f"'G{self.first_ms % 10**6:06d}-' || lpad(n::text, 9, '0')"

    @property
    def customer(self) -> str:
        return f"md5('customer' || n % {self.total // TICKETS_A_CUSTOMER + 1})"


@dataclass(frozen=True)
class Filled:
    """One table: by which column its rows belong to a ticket, and what a copy has instead of the template's values.

    `recent`: it keeps a week only, so it holds a hundredth of the tickets, with the moments of the templates.
    """

    table: str
    subject: str = "ticket_id"
    instead: Mapping[str, str] = field(default_factory=dict)
    leaves_out: Sequence[str] = ()
    recent: bool = False


NUMBERED = {"ticket_no": "{number}"}
# An open clock is due between one and thirty-one days from now: never while anybody measures.
LATER = "CASE WHEN t.next_at IS NOT NULL THEN now() + interval '1 day' + n % 43200 * interval '1 minute' END"
PLUMBING = (
    Filled("inbox", "subject"),
    # With a number below every seal's they lie behind the chain, as sealed ones do, and cost the sealer nothing.
    Filled("audit_trail", "subject", {"xid": "1"}, leaves_out=("id",)),
    Filled("outbox", "subject", {"event_id": "uuidv7()", "published_at": "now()"}, leaves_out=("id",), recent=True),
)
FILLED: dict[str, tuple[Filled, ...]] = {
    "intake": (
        Filled("tickets", instead=NUMBERED | {"customer_key": "{customer}", "external_id": "NULL"}),
        Filled("ticket_timeline", instead={"event_id": "uuidv7()"}),
        *PLUMBING,
    ),
    "review": (Filled("reviews", instead=NUMBERED), *PLUMBING),
    "dispatch": (Filled("work_orders", instead=NUMBERED), Filled("callbacks"), *PLUMBING),
    "sla": (
        Filled(
            "complaint_facts",
            instead=NUMBERED
            | {"customer_key": "{customer}", "problem_key": f"'grown|' || n % {PROBLEMS}", "incident_id": "NULL"},
        ),
        Filled("clocks", instead={"clock_id": "uuidv7()", "next_at": LATER}),
        Filled("escalations", instead=NUMBERED | {"escalation_id": "uuidv7()", "incident_id": "NULL"}),
        *PLUMBING,
    ),
}


async def take_templates(connection: Any, service: str, tickets: Sequence[tuple[UUID, int]]) -> None:
    """Note the rows of these tickets, (id, acceptance in Unix milliseconds), in temporary tables of the session."""
    await connection.execute("CREATE TEMP TABLE template (place bigint, id uuid, at_ms bigint)")
    places = [(place, ticket, at) for place, (ticket, at) in enumerate(tickets)]
    await connection.copy_records_to_table("template", records=places)
    for filled in FILLED[service]:
        as_text = await connection.fetchval(
            "SELECT atttypid = 'text'::regtype FROM pg_attribute WHERE attrelid = $1::text::regclass AND attname = $2",
            *(filled.table, filled.subject),
        )
        given = "template.id::text" if as_text else "template.id"
        await connection.execute(
            f"CREATE TEMP TABLE {filled.table}_rows AS SELECT template.place, template.at_ms, t.*"
            f" FROM {filled.table} AS t JOIN template ON t.{filled.subject} = {given}"
        )


async def fill(connection: Any, filled: Filled, copies: Copies, templates: int, first: int, last: int) -> None:
    """Store the copies from the number `first` up to `last` in one table, one transaction."""
    columns = await connection.fetch(
        "SELECT attname, format_type(atttypid, atttypmod) AS type FROM pg_attribute"
        " WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
        filled.table,
    )
    types = {row["attname"]: row["type"] for row in columns if row["attname"] not in filled.leaves_out}
    await connection.execute(statement(filled, types, copies, templates, first, last))


def statement(filled: Filled, types: Mapping[str, str], copies: Copies, templates: int, first: int, last: int) -> str:
    """The INSERT; `types` are those of the columns that are written.

    What a copy has of its own is made once a ticket and not once a row and column (`OFFSET 0` keeps PostgreSQL from
    putting the expressions back into each place).
    """
    values: dict[str, str] = {}
    for name, kind in types.items():
        if name in filled.instead:
            values[name] = filled.instead[name].format(customer="copy.customer", number="copy.number")
        elif name == filled.subject:
            values[name] = "copy.id" + ("::text" if kind == "text" else "")
        elif kind.startswith("timestamp") and not filled.recent:
            # As long after its acceptance as the template's.
            values[name] = f"t.{name} + since.shift"
        else:
            values[name] = f"t.{name}"
    return (
        f"INSERT INTO {filled.table} ({', '.join(values)}) SELECT {', '.join(values.values())}"
        f" FROM (SELECT n, {copies.at_ms} AS at_ms, {copies.id} AS id, {copies.number} AS number,"
        f" {copies.customer} AS customer FROM generate_series({first}::bigint, {last}) AS n OFFSET 0) AS copy"
        f" JOIN {filled.table}_rows AS t ON t.place = copy.n % {templates}"
        " CROSS JOIN LATERAL (SELECT (copy.at_ms - t.at_ms) * interval '1 millisecond' AS shift OFFSET 0) AS since"
    )


async def drop_indexes(connection: Any, table: str) -> list[str]:
    """Drop all indexes and keys of a table; the statements that make them again. Nobody may use the table meanwhile."""
    found = await connection.fetch(
        "SELECT i.indexrelid::regclass::text AS name, c.conname, pg_get_indexdef(i.indexrelid) AS made,"
        " pg_get_constraintdef(c.oid) AS key FROM pg_index AS i LEFT JOIN pg_constraint AS c"
        " ON c.conindid = i.indexrelid AND c.contype IN ('p', 'u') WHERE i.indrelid = $1::text::regclass",
        table,
    )
    again = []
    for index in found:
        if index["conname"] is None:
            await connection.execute(f"DROP INDEX {index['name']}")
            again.append(index["made"])
        else:
            await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {index['conname']}")
            again.append(f"ALTER TABLE {table} ADD CONSTRAINT {index['conname']} {index['key']}")
    return again
