"""End to end: from the POST to the record on the branch's topic, all four services on the same machine.

First as fast as it goes; then the highest rate at which no backlog grows is searched for with paced load and proved by
holding it: neither that of tickets without their order, nor that of events which a service has still to read. Then the
latencies at a quarter, half and three quarters of that.
"""

from dataclasses import dataclass, field
from typing import Any

from deploy.local.state import SERVICES
from tests.bench.backlog import Sample, answered, growth, highest, holds, less
from tests.bench.figures import Cpu, Figure, Findings, Target, milliseconds_a_ticket
from tests.bench.floors import BARE, TEXTBOOK, Floors, Rounds, floors
from tests.bench.machine import POSTGRES, SERVERS
from tests.bench.reading import readers
from tests.bench.stand import Part, Stand

FULL_SECONDS = 20.0
TRIAL_SECONDS = 5.0
TRIALS = 3
HOLD_SECONDS = 10.0
LEVEL_SECONDS = 4.0
LEVELS = (0.25, 0.5, 0.75)
FLOOR_SECONDS = 1.5
PROOFS = 3


@dataclass
class Run:
    """One run of tickets through everything: what the load generator saw, how far the services were behind with
    reading, CPU milliseconds a ticket, and after how many seconds nothing was left to do."""

    done: dict[str, Any]
    reading: list[Sample]
    cpu: dict[str, float]
    at_rest: float

    @property
    def rate(self) -> float:
        """Tickets a second from the first POST to the last order."""
        return float(self.done["done"] / self.done["last_order_seconds"])

    @property
    def whole_rate(self) -> float:
        """Tickets a second from the first POST until every service had read everything."""
        return float(self.done["done"] / self.at_rest)


@dataclass
class Level:
    """A share of the sustained rate, round by round, in milliseconds."""

    p50: list[float] = field(default_factory=list)
    p95: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[dict[str, float]] = field(default_factory=list)
    done: list[dict[str, Any]] = field(default_factory=list)


async def through(stand: Stand, seconds: float, rate: float | None = None) -> Run:
    """Send tickets through everything from rest to rest; at a rate, or as fast as it goes."""
    await stand.drained()
    async with readers(stand) as reading:
        before = stand.machine.cpu()
        done = await stand.load.run(
            "pipeline",
            url=f"{stand.stack.url('intake')}/v1/tickets",
            key=stand.key("front_line"),
            bootstrap=stand.stack.bootstrap,
            branches=sorted(stand.facts["branch_keys"]),
            seconds=seconds,
            rate=rate,
        )
        await stand.drained()
    cpu = milliseconds_a_ticket(before, stand.machine.cpu(), done["done"], SERVERS)
    return Run(done, reading.curve, cpu, reading.at_rest)


async def measure(stand: Stand) -> Findings:
    bare, textbook = Rounds(), Rounds()
    levels = {level: Level() for level in LEVELS}
    async with floors(stand) as beneath:
        await _floors(beneath, bare, textbook)
        await through(stand, 1.0)
        full = await through(stand, FULL_SECONDS)
        stand.say(f"as fast as it goes: {full.rate:,.0f} tickets/s, {full.whole_rate:,.0f} until all was read")
        await _floors(beneath, bare, textbook)
        sustained, proof, trials = await _sustained(stand, full.whole_rate)
        base = sustained or less(trials[-1]["rate"], trials[-1]["answered"])
        await _floors(beneath, bare, textbook)
        # Each is the latencies of hundreds of tickets, so that fewer rounds than elsewhere tell enough.
        for number in range(1, (stand.options.rounds + 1) // 2 + 1):
            for share, level in levels.items():
                run = await through(stand, LEVEL_SECONDS, base * share)
                for name in ("p50", "p95", "p99"):
                    getattr(level, name).append(run.done["order_ms"][name])
                level.cpu.append(run.cpu)
                level.done.append(run.done)
                stand.say(f"round {number}, {share:.0%} of {base:,.0f}/s: p99 {level.p99[-1]:,.0f} ms")
    found = _findings(bare, textbook, full, sustained, proof, trials, levels)
    busiest = max(job["core_share"] for job in stand.load.jobs)
    found.figures.append(Figure("Load generator, busiest run", "of a core", [busiest], target=Target("at most", 0.6)))
    return found


async def _floors(beneath: Floors, bare: Rounds, textbook: Rounds) -> None:
    await beneath.round(BARE, bare, FLOOR_SECONDS)
    await beneath.round(TEXTBOOK, textbook, FLOOR_SECONDS)


async def _sustained(stand: Stand, first: float) -> tuple[float, Run, list[dict[str, Any]]]:
    """The rate that held, the run that proves it, and all trials. A rate of 0 means that none held."""
    trials: list[dict[str, Any]] = []

    async def tried(rate: float, seconds: float) -> tuple[bool, Run]:
        run = await through(stand, seconds, rate)
        curve = run.done["curve"]
        taken, climb, unread = answered(curve, seconds), growth(curve, seconds), growth(run.reading, seconds)
        held = holds(curve, rate, seconds) and holds(run.reading, answered(run.reading, seconds), seconds)
        trial = {"rate": rate, "seconds": seconds, "held": held, "answered": taken, "growth": climb, "unread": unread}
        trials.append(trial)
        stand.say(
            f"{rate:,.0f}/s for {seconds:.0f} s: {taken:,.0f}/s accepted, backlog {climb:+.1f}/s, events not yet read"
            f" {unread:+.1f}/s, {'held' if held else 'not held'}"
        )
        return held, run

    async def try_it(rate: float) -> tuple[bool, float]:
        held, _ = await tried(rate, TRIAL_SECONDS)
        return held, trials[-1]["answered"]

    rate = await highest(try_it, first, TRIALS) or less(trials[-1]["rate"], trials[-1]["answered"])
    for _ in range(PROOFS):
        held, run = await tried(rate, HOLD_SECONDS)
        if held:
            return rate, run, trials
        rate = less(rate, trials[-1]["answered"])
    return 0.0, run, trials


def _findings(
    bare: Rounds,
    textbook: Rounds,
    full: Run,
    sustained: float,
    proof: Run,
    trials: list[dict[str, Any]],
    levels: dict[float, Level],
) -> Findings:
    found = Findings()
    count = len(bare.rate)
    services = sum(proof.cpu[name] for name in SERVICES)
    one_insert = [each[TEXTBOOK] for each in textbook.cpu]
    with_postgres = [each[TEXTBOOK] + each[POSTGRES] for each in textbook.cpu]
    lowest = Target("at least", 0.20, "ratio")
    found.figures = [
        Figure("Sustained, no growing backlog", "tickets/s", [sustained] * count, bare.rate, BARE, lowest),
        Figure("As fast as it goes, to the last order", "tickets/s", [full.rate] * count, bare.rate, BARE),
        Figure("As fast as it goes, until all is read", "tickets/s", [full.whole_rate] * count, bare.rate, BARE),
        Figure("Backlog's growth at the sustained rate", "/s", [growth(proof.done["curve"], HOLD_SECONDS)]),
        Figure("Growth of the events not yet read there", "/s", [growth(proof.reading, HOLD_SECONDS)]),
        Figure("Backlog's growth as fast as it goes", "/s", [growth(full.done["curve"], FULL_SECONDS)]),
        Figure(
            "CPU of the four services a ticket",
            "ms",
            [services] * count,
            one_insert,
            TEXTBOOK,
            Target("at most", 1, "ratio"),
        ),
        Figure(
            "The same, with PostgreSQL on both sides",
            "ms",
            [services + proof.cpu[POSTGRES]] * count,
            with_postgres,
            TEXTBOOK,
        ),
    ]
    for share, level in levels.items():
        name = f"POST to order at {share:.0%} of it"
        half = Target("at most", 500) if share == 0.5 else None
        found.figures += [
            Figure(f"{name}, p50", "ms", level.p50),
            Figure(f"{name}, p95", "ms", level.p95),
            Figure(f"{name}, p99", "ms", level.p99, target=half),
        ]
    found.cpu = [
        Cpu("at the sustained rate", [proof.cpu]),
        Cpu("as fast as it goes", [full.cpu]),
        *(Cpu(f"at {share:.0%}", level.cpu) for share, level in levels.items()),
    ]
    found.facts = {"full": full.done, "proof": proof.done, "trials": trials, "sustained": sustained}
    found.facts["reading"] = {"full": full.reading, "proof": proof.reading}
    found.facts["levels"] = {f"{share:.0%}": level.done for share, level in levels.items()}
    found.notes = [
        f"Backlog: tickets accepted minus orders seen on the branches' topics, every half second; and the events on the"
        f" topics minus those applied, by all who read them. Neither grew for {HOLD_SECONDS:.0f} s at the sustained"
        " rate. The curves, and all trials, are in the JSON."
        if sustained
        else "No rate that was tried held long enough: what is said of the sustained rate is of the last one tried.",
        "The load generator also reads the branches' topics, a fetch every 20 ms: that is in the broker's CPU and in"
        " the latencies, and the process shares the two cores with what it measures.",
    ]
    return found


PART = Part("end_to_end", "End to end: POST to the record on the branch's topic", 125, measure)
