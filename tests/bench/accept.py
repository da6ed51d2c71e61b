"""Accept: POST /v1/tickets beside a bare endpoint and a textbook one, with 1, 8, 32 and 128 connections.

The other three services are held still, so that the three servers have the same machine; intake publishes its events
all the same. One round of all three follows another, so that each meets the same moods of the machine.
"""

from dataclasses import dataclass, field
from typing import Any

from tests.bench.figures import Cpu, Figure, Findings, Target, milliseconds_a_ticket
from tests.bench.generator import beside
from tests.bench.machine import POSTGRES
from tests.bench.stand import BARE_PORT, NULL_PORT, TEXTBOOK_PORT, Part, Stand

CONNECTIONS = (1, 8, 32, 128)
JUDGED = 32
SECONDS = 2.0
BARE, TEXTBOOK, INTAKE = "bare", "textbook", "intake"
SERVERS = (BARE, TEXTBOOK, INTAKE)
BUSIEST_GENERATOR = 0.6


@dataclass
class Rounds:
    """What one server did with one number of connections, round by round."""

    rate: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[dict[str, float]] = field(default_factory=list)
    generator: list[float] = field(default_factory=list)
    failures: int = 0

    def add(self, done: dict[str, Any], cpu: dict[str, float]) -> None:
        self.rate.append(done["rate"])
        self.p50.append(done["ms"]["p50"])
        self.p99.append(done["ms"]["p99"])
        self.cpu.append(cpu)
        self.generator.append(done["core_share"])
        self.failures += sum(done["failures"].values())


Known = dict[tuple[str, int], Rounds]


async def measure(stand: Stand) -> Findings:
    known: Known = {(server, count): Rounds() for server in SERVERS for count in CONNECTIONS}
    null: list[float] = []
    urls = {
        BARE: f"http://127.0.0.1:{stand.port(BARE_PORT)}/v1/tickets",
        TEXTBOOK: f"http://127.0.0.1:{stand.port(TEXTBOOK_PORT)}/v1/tickets",
        INTAKE: f"{stand.stack.url(INTAKE)}/v1/tickets",
    }
    null_url = f"http://127.0.0.1:{stand.port(NULL_PORT)}/v1/tickets"
    async with (
        stand.own_database("bench_textbook") as dsn,
        beside("tests.bench.bare", urls[BARE], str(stand.port(BARE_PORT))) as bare,
        beside("tests.bench.textbook", urls[TEXTBOOK], str(stand.port(TEXTBOOK_PORT)), given=dsn) as textbook,
        beside("tests.bench.null", null_url, str(stand.port(NULL_PORT))),
    ):
        stand.machine.watch(BARE, bare)
        stand.machine.watch(TEXTBOOK, textbook)
        with stand.machine.held("review", "dispatch", "sla"):
            for server in SERVERS:
                await _run(stand, urls, server, JUDGED, SECONDS / 2)
            for number in range(1, stand.options.rounds + 1):
                done = await stand.load.run("closed", url=null_url, connections=JUDGED, seconds=SECONDS / 2)
                null.append(done["rate"])
                for count in CONNECTIONS:
                    for server in SERVERS:
                        before = stand.machine.cpu()
                        done = await _run(stand, urls, server, count, SECONDS)
                        after = stand.machine.cpu()
                        cpu = milliseconds_a_ticket(before, after, done["done"], (server, POSTGRES))
                        known[server, count].add(done, cpu)
                    rates = ", ".join(f"{server} {known[server, count].rate[-1]:,.0f}/s" for server in SERVERS)
                    stand.say(f"round {number}, {count} connections: {rates}")
    return _findings(known, null)


async def _run(stand: Stand, urls: dict[str, str], server: str, connections: int, seconds: float) -> dict[str, Any]:
    key = stand.key("front_line") if server == INTAKE else None
    return await stand.load.run("closed", url=urls[server], connections=connections, seconds=seconds, key=key)


def _findings(known: Known, null: list[float]) -> Findings:
    found = Findings()
    for count in CONNECTIONS:
        bare, textbook, intake = (known[server, count] for server in SERVERS)
        judged = count == JUDGED
        name = f"{count} connection{'s' if count > 1 else ''}"
        found.figures += [
            _figure(f"{name}, rate", "/s", intake.rate, bare.rate, BARE, Target("at least", 0.60, "ratio"), judged),
            _figure(
                f"{name}, rate", "/s", intake.rate, textbook.rate, TEXTBOOK, Target("at least", 4, "ratio"), judged
            ),
            _figure(f"{name}, p50", "ms", intake.p50, bare.p50, BARE, None, judged),
            _figure(f"{name}, p99", "ms", intake.p99, bare.p99, BARE, Target("at most", 3, "ratio"), judged),
        ]
        if judged:
            own = [each[INTAKE] for each in intake.cpu]
            floor = [each[BARE] for each in bare.cpu]
            limit = Target("at most", 2, "ratio")
            found.figures.append(_figure(f"{name}, CPU of intake a ticket", "ms", own, floor, BARE, limit, True))
        found.cpu += [
            Cpu(
                f"{server}, {name}",
                [{"server": each[server], POSTGRES: each[POSTGRES]} for each in known[server, count].cpu],
            )
            for server in SERVERS
        ]
    busiest = max(share for rounds in known.values() for share in rounds.generator)
    failures = sum(rounds.failures for rounds in known.values())
    found.figures += [
        Figure("Load generator against a server that does nothing", "/s", null, target=Target("at least", 15_000)),
        Figure("Load generator, busiest round", "of a core", [busiest], target=Target("at most", BUSIEST_GENERATOR)),
        Figure("Requests that failed", "", [failures], target=Target("at most", 0)),
    ]
    found.notes = [
        "The other three services are stopped (SIGSTOP) meanwhile; intake's relay publishes to the broker as ever.",
        "PostgreSQL's CPU in the rows of `bare` is its own upkeep, which the other rows have too.",
        "The limit of requests a client is raised out of the way; it is checked all the same.",
    ]
    found.facts["rounds"] = {f"{server} {count}": vars(rounds) for (server, count), rounds in known.items()}
    return found


def _figure(
    name: str,
    unit: str,
    values: list[float],
    floor: list[float],
    floor_name: str,
    target: Target | None,
    judged: bool,
) -> Figure:
    return Figure(name, unit, values, floor, floor_name, target if judged else None)


PART = Part("accept", "Accept: POST /v1/tickets", 100, measure, spoils=True)
