"""Accept: POST /v1/tickets beside a bare endpoint and a textbook one, with 1, 8, 32 and 128 connections.

The other three services are held still, so that the three servers have the same machine; intake publishes its events
all the same. One round of all three follows another, so that each meets the same moods of the machine.
"""

from tests.bench.figures import Cpu, Figure, Findings, Target, milliseconds_a_ticket
from tests.bench.floors import BARE, TEXTBOOK, Floors, Rounds, floors
from tests.bench.generator import beside
from tests.bench.machine import POSTGRES
from tests.bench.stand import NULL_PORT, Part, Stand

CONNECTIONS = (1, 8, 32, 128)
JUDGED = 32
SECONDS = 1.2
INTAKE = "intake"
SERVERS = (BARE, TEXTBOOK, INTAKE)
BUSIEST_GENERATOR = 0.6

Known = dict[tuple[str, int], Rounds]


async def measure(stand: Stand) -> Findings:
    known: Known = {(server, count): Rounds() for server in SERVERS for count in CONNECTIONS}
    null: list[float] = []
    await stand.drained()
    null_url = f"http://127.0.0.1:{stand.port(NULL_PORT)}/v1/tickets"
    async with floors(stand) as beneath, beside("tests.bench.null", null_url, str(stand.port(NULL_PORT))):
        with stand.machine.held("review", "dispatch", "sla"):
            await _round(stand, beneath, INTAKE, Rounds(), JUDGED)
            for number in range(1, stand.options.rounds + 1):
                done = await stand.load.run("closed", url=null_url, connections=JUDGED, seconds=SECONDS / 2)
                null.append(done["rate"])
                for count in CONNECTIONS:
                    for server in SERVERS:
                        await _round(stand, beneath, server, known[server, count], count)
                    rates = ", ".join(f"{server} {known[server, count].rate[-1]:,.0f}/s" for server in SERVERS)
                    stand.say(f"round {number}, {count} connections: {rates}")
    return _findings(known, null)


async def _round(stand: Stand, beneath: Floors, server: str, into: Rounds, connections: int) -> None:
    if server != INTAKE:
        await beneath.round(server, into, SECONDS, connections)
        return
    before = stand.machine.cpu()
    url, key = f"{stand.stack.url(INTAKE)}/v1/tickets", stand.key("front_line")
    done = await stand.load.run("closed", url=url, connections=connections, seconds=SECONDS, key=key)
    into.add(done, milliseconds_a_ticket(before, stand.machine.cpu(), done["done"], (INTAKE, POSTGRES)))


def _findings(known: Known, null: list[float]) -> Findings:
    found = Findings()
    for count in CONNECTIONS:
        name = f"{count} connection{'s' if count > 1 else ''}"
        found.figures += _figures(name, *(known[server, count] for server in SERVERS), judged=count == JUDGED)
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
        "The limit of requests a client is raised out of the way; it is checked all the same.",
        "That the load generator is no bottleneck: its own CPU in every round, and its rate against a server that only"
        " answers, both of this run.",
    ]
    found.facts["rounds"] = {f"{server} {count}": vars(rounds) for (server, count), rounds in known.items()}
    return found


def _figures(name: str, bare: Rounds, textbook: Rounds, intake: Rounds, *, judged: bool) -> list[Figure]:
    def target(bound: Target) -> Target | None:
        return bound if judged else None

    least, four_times = Target("at least", 0.60, "ratio"), Target("at least", 4, "ratio")
    figures = [
        Figure(f"{name}, rate", "/s", intake.rate, bare.rate, BARE, target(least)),
        Figure(f"{name}, rate", "/s", intake.rate, textbook.rate, TEXTBOOK, target(four_times)),
        Figure(f"{name}, p50", "ms", intake.p50, bare.p50, BARE),
        Figure(f"{name}, p99", "ms", intake.p99, bare.p99, BARE, target(Target("at most", 3, "ratio"))),
    ]
    if judged:
        own, floor = [each[INTAKE] for each in intake.cpu], [each[BARE] for each in bare.cpu]
        most = Target("at most", 2, "ratio")
        figures.append(Figure(f"{name}, CPU of intake a ticket", "ms", own, floor, BARE, most))
    return figures


PART = Part("accept", "Accept: POST /v1/tickets", 60, measure, spoils=True)
