"""Deadlines: from the moment a clock is due to the acknowledgement of its event, with a million clocks open.

Facts and clocks are stored straight into the database of sla, as copies of one ticket that went through the platform.
The other services know nothing of these tickets, so they are held still while clocks fire. Lateness is the database's
own: `published_at` of the event, which is set behind the broker's acknowledgement, less the deadline it names.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from tests.bench import rows
from tests.bench.bodies import complaint
from tests.bench.figures import Figure, Findings, Target, milliseconds_a_ticket, percentiles_ms
from tests.bench.instances import another
from tests.bench.machine import BACKGROUND, POSTGRES
from tests.bench.stand import Part, Stand
from tests.support.journey import register, wait_for_status

SIZES = (10_000, 1_000_000)
A_SECOND = 100
STEADY_SECONDS = 10
MINUTE = 100_000
MINUTE_SECONDS = 60.0
GRACE_SECONDS = 5.0
LEAD_SECONDS = 4.0
CROWD_LEAD_SECONDS = 25.0
LOOK_SECONDS = 0.1
LOOKS = 600
OPEN_A_TICKET = ("first_reply", "resolution", "progress", "transfer", "holiday_report")
SHARES = 10**12
"""Copies at most, so that even the millionth was accepted as good as when its template was."""
CHUNK = 50_000
SECOND = "sla, second"

_CLOCKS = """
INSERT INTO clocks (clock_id, ticket_id, kind, cycle, rule, state, started_at, opened_at, ladder_from, due_at, next_at,
    boundary, soft, on_breach, rung, provisional, counted_seconds, excluded_seconds, explanation)
SELECT uuidv7(), {id}, kind, 1, 'GDM-L4', 'running', now(), now(), {due}, {due}, {due},
    'at', false, 'overdue', 0, false, 0, 0, {explanation}
FROM generate_series({first}::bigint, {last}) AS n, unnest(CAST('{kinds}' AS text[])) AS kind
"""
_EXPLANATION = """'{"zh": "GDM-L4：48 小时（按自然时间）", "en": "GDM-L4: 48 hours (elapsed time)"}'"""
_FIRED = """
WITH fired AS (
    SELECT subject, created_at, published_at,
        (convert_from(payload, 'UTF8')::jsonb #>> '{clock,due_at}')::timestamptz AS due_at
    FROM outbox WHERE type = 'clock.breached' AND id > $1::bigint
)
SELECT count(*) AS events, count(DISTINCT subject) AS tickets,
    array_agg(extract(epoch FROM published_at - due_at)::float8) FILTER (WHERE published_at IS NOT NULL) AS late,
    extract(epoch FROM max(published_at) - $2::timestamptz)::float8 AS seconds,
    count(*) FILTER (WHERE published_at < due_at) AS early
FROM fired
"""
# Not `clock_timestamp()`, which changes within a statement, so that no index is asked for it: each look read all
# clocks, 0.18 ms of PostgreSQL for every clock fired with 1.6 million stored.
_LEFT = """
SELECT EXISTS (SELECT 1 FROM clocks WHERE next_at <= now() AND state = 'running')
    OR EXISTS (SELECT 1 FROM outbox WHERE published_at IS NULL)
"""
_DUE = (
    "EXPLAIN (ANALYZE, BUFFERS) SELECT ticket_id, next_at FROM clocks WHERE next_at <= now()"
    " AND ticket_id <> ALL('{}'::uuid[]) ORDER BY next_at LIMIT 500"
)


@dataclass
class Fired:
    """What came of clocks that were due: lateness in seconds, events a clock had twice, CPU milliseconds a clock."""

    open: int
    due: int
    events: int = 0
    twice: int = 0
    early: int = 0
    seconds: float = 0.0
    late: list[float] = field(default_factory=list)
    cpu: dict[str, float] = field(default_factory=dict)
    plan: list[str] = field(default_factory=list)


class Clocks:
    """Open clocks in the database of sla; `open` says how many there are."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._copies = rows.Copies(SHARES, 0)
        self._next = 0
        self.open = 0

    async def prepare(self, ticket_id: Any) -> None:
        """Take this ticket as the template of all copies."""
        row = await self._connection.fetchrow(
            "SELECT ticket_id, (extract(epoch FROM accepted_at) * 1000)::bigint AS ms FROM complaint_facts"
            " WHERE ticket_id = $1::text::uuid",
            ticket_id,
        )
        self._copies = rows.Copies(SHARES, row["ms"])
        await rows.take_templates(self._connection, "sla", [(row["ticket_id"], row["ms"])])

    async def fill_up(self, wanted: int) -> None:
        """Have so many clocks open that are due in a month, five a ticket."""
        while (missing := wanted - self.open) > 0:
            tickets = min(-(-missing // len(OPEN_A_TICKET)), CHUNK)
            due = "now() + interval '30 days' + n % 43200 * interval '1 minute'"
            await self._add(tickets, due, OPEN_A_TICKET)
            self.open += tickets * len(OPEN_A_TICKET)
        await self._connection.execute("VACUUM ANALYZE clocks")
        await self._connection.execute("VACUUM ANALYZE complaint_facts")

    async def schedule(self, count: int, a_second: float, lead_seconds: float) -> Any:
        """Clocks of as many tickets, due one after another; when the first is due."""
        first = await self._connection.fetchval(
            "SELECT clock_timestamp() + make_interval(secs => $1::float8)", lead_seconds
        )
        began = self._next
        for start in range(0, count, CHUNK):
            due = f"timestamptz '{first.isoformat()}' + (n - {began}) * interval '1 second' / {a_second}"
            await self._add(min(CHUNK, count - start), due, ("resolution",))
        return first

    async def _add(self, tickets: int, due: str, kinds: tuple[str, ...]) -> None:
        first, last = self._next, self._next + tickets - 1
        self._next += tickets
        facts = next(each for each in rows.FILLED["sla"] if each.table == "complaint_facts")
        await rows.fill(self._connection, facts, self._copies, 1, first, last)
        await self._connection.execute(
            _CLOCKS.format(
                id=self._copies.id,
                due=due,
                explanation=_EXPLANATION,
                first=first,
                last=last,
                kinds="{" + ",".join(kinds) + "}",
            )
        )


async def fire(stand: Stand, clocks: Clocks, connection: Any, count: int, a_second: float, lead: float) -> Fired:
    """Let clocks fall due, and wait until each has its event published or a minute more has passed."""
    fired = Fired(clocks.open, count)
    after = await connection.fetchval("SELECT coalesce(max(id), 0) FROM outbox")
    first = await clocks.schedule(count, a_second, lead)
    fired.plan = [row[0] for row in await connection.fetch(_DUE)]
    now = await connection.fetchval("SELECT clock_timestamp()")
    await asyncio.sleep(max(0.0, (first - now).total_seconds()))
    before = stand.machine.cpu()
    await asyncio.sleep(count / a_second)
    for _ in range(LOOKS):
        if not await connection.fetchval(_LEFT):
            break
        await asyncio.sleep(LOOK_SECONDS)
    fired.cpu = milliseconds_a_ticket(before, stand.machine.cpu(), count)
    found = await connection.fetchrow(_FIRED, after, first)
    fired.events, fired.twice, fired.early = found["events"], found["events"] - found["tickets"], found["early"]
    fired.late, fired.seconds = list(found["late"] or ()), found["seconds"] or 0.0
    return fired


async def measure(stand: Stand) -> Findings:
    sizes = [each for each in SIZES if stand.options.size is None or each < stand.options.size]
    sizes += [stand.options.size] if stand.options.size is not None else []
    # A customer of its own: a second complaint of one who waits would be held for a person.
    body = complaint("network.voice.dropped", "jinan", "历下区", f"{time.time_ns() // 1_000_000 % 10**10:010d}")
    ticket = await asyncio.to_thread(register, stand.stack, body)
    await asyncio.to_thread(wait_for_status, stand.stack, ticket["ticket_no"], "dispatched")
    steady: list[Fired] = []
    async with stand.database("sla") as connection:
        clocks = Clocks(connection)
        await clocks.prepare(ticket["ticket_id"])
        with stand.machine.held("intake", "review", "dispatch"):
            for size in sizes:
                await clocks.fill_up(size)
                steady.append(await fire(stand, clocks, connection, A_SECOND * STEADY_SECONDS, A_SECOND, LEAD_SECONDS))
                late = percentiles_ms(steady[-1].late)
                stand.say(f"{size:,} open: p99 {late['p99']:,.0f} ms late, sla {steady[-1].cpu['sla']:.2f} ms a clock")
            crowd = await _crowd(stand, clocks, connection) if stand.options.named else None
    return _findings(steady, crowd)


async def _crowd(stand: Stand, clocks: Clocks, connection: Any) -> Fired:
    """A hundred thousand within a minute, with two instances of sla."""
    async with another(stand, "sla", 1) as pid:
        stand.machine.watch(SECOND, pid)
        # Storing them takes longer than the usual lead; none may be due before all are there.
        return await fire(stand, clocks, connection, MINUTE, MINUTE / MINUTE_SECONDS, CROWD_LEAD_SECONDS)


def _findings(steady: list[Fired], crowd: Fired | None) -> Findings:
    found = Findings()
    least = f"{steady[0].open:,} open"
    for each in steady:
        late = percentiles_ms(each.late)
        name = f"{each.open:,} open, {A_SECOND} due a second"
        target = Target("at most", 250) if each.open >= 1_000_000 else None
        found.figures += [
            Figure(f"{name}: late, p50", "ms", [late["p50"]]),
            Figure(f"{name}: late, p99", "ms", [late["p99"]], target=target),
            Figure(f"{name}: late, max", "ms", [late["max"]]),
            Figure(f"{name}: CPU of sla a clock", "ms", [each.cpu["sla"]], [steady[0].cpu["sla"]], least),
            Figure(
                f"{name}: CPU of PostgreSQL's sessions a clock",
                "ms",
                [each.cpu[POSTGRES] - each.cpu[BACKGROUND]],
                [steady[0].cpu[POSTGRES] - steady[0].cpu[BACKGROUND]],
                least,
            ),
            Figure(f"{name}: CPU of PostgreSQL's background a clock", "ms", [each.cpu[BACKGROUND]]),
        ]
        found.figures += _counts(name, each)
    if crowd is not None:
        found.figures += _crowd_figures(crowd)
    found.facts = {
        "fired": [{**vars(each), "late": percentiles_ms(each.late)} for each in (*steady, *([crowd] if crowd else ()))]
    }
    found.notes = [
        "intake, review and dispatch are held still meanwhile: they do not know these tickets. Lateness runs to the"
        " mark behind the broker's acknowledgement, by the database's clock; each clock raises an escalation too.",
        "The plan of the query for what is due stands in the JSON for each size.",
        "A hundred thousand within a minute, and five million open, are measured by name: make bench PARTS=deadlines"
        " SIZE=5000000.",
    ]
    return found


def _crowd_figures(crowd: Fired) -> list[Figure]:
    name = f"{MINUTE:,} due within a minute, two instances"
    within = Target("at most", MINUTE_SECONDS + GRACE_SECONDS)
    return [
        Figure(f"{name}: all done after", "s", [crowd.seconds], target=within),
        Figure(f"{name}: late, p99", "ms", [percentiles_ms(crowd.late)["p99"]]),
        Figure(f"{name}: CPU of sla a clock, both", "ms", [crowd.cpu["sla"] + crowd.cpu[SECOND]]),
        Figure(f"{name}: CPU of PostgreSQL a clock", "ms", [crowd.cpu[POSTGRES]]),
        *_counts(name, crowd),
    ]


def _counts(name: str, fired: Fired) -> list[Figure]:
    return [
        Figure(
            f"{name}: fired of {fired.due:,}", "", [fired.events - fired.twice], target=Target("at least", fired.due)
        ),
        Figure(f"{name}: fired twice, or early", "", [fired.twice + fired.early], target=Target("at most", 0)),
    ]


PART = Part("deadlines", "Deadlines: a million open clocks", 70, measure, spoils=True)
