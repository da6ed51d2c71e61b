"""The limits under everything: what FastAPI, PostgreSQL and the broker do by themselves on this machine."""

from typing import Any

from shared.contracts.topics import INTAKE, dead_letter_topic
from tests.bench.figures import Cpu, Figure, Findings, milliseconds_a_ticket
from tests.bench.floors import BARE
from tests.bench.generator import beside
from tests.bench.machine import BROKER, POSTGRES
from tests.bench.stand import BARE_PORT, Part, Stand

SECONDS = 1.0
CONNECTIONS = 32
# Connections that commit at the same time, and rows in a transaction of each.
WRITES = ((1, 1), (8, 1), (32, 1), (1, 50))
CLIENT = "client's driver"
# Any topic does that no service reads.
TOPIC = dead_letter_topic(INTAKE)


class Limit:
    """One of the limits: a job of the load generator, whose result counts `counted`, against a server.

    Its rate, and CPU milliseconds for each of what is counted, of server and client, round by round.
    """

    def __init__(self, name: str, unit: str, server: str, job: str, counted: str, **arguments: Any) -> None:
        self._name, self._unit = name, unit
        self._server, self._job, self._counted, self._arguments = server, job, counted, arguments
        self._rates: list[float] = []
        self._used: list[dict[str, float]] = []

    async def round(self, stand: Stand) -> str:
        """Measure it once more; in words."""
        before = stand.machine.cpu()
        done = await stand.load.run(self._job, **self._arguments)
        count = done[self._counted]
        used = milliseconds_a_ticket(before, stand.machine.cpu(), count, [self._server])
        self._used.append(used | {CLIENT: done["cpu_seconds"] * 1000 / max(count, 1)})
        self._rates.append(count / done["seconds"])
        return f"{self._name}: {self._rates[-1]:,.0f} {self._unit}"

    def figure(self) -> Figure:
        return Figure(self._name, self._unit, self._rates)

    def cpu(self) -> Cpu:
        return Cpu(f"{self._name} (each)", self._used)


async def measure(stand: Stand) -> Findings:
    url = f"http://127.0.0.1:{stand.port(BARE_PORT)}"
    async with (
        beside("tests.bench.bare", url, str(stand.port(BARE_PORT))) as bare,
        stand.own_database("bench_limits") as dsn,
    ):
        stand.machine.watch(BARE, bare)
        known = [
            Limit(
                f"FastAPI, empty request, {CONNECTIONS} connections",
                "requests/s",
                BARE,
                "empty",
                "done",
                url=f"{url}/empty",
                connections=CONNECTIONS,
                seconds=SECONDS,
            ),
            *(
                Limit(
                    f"PostgreSQL, {writers} writer{'s' if writers > 1 else ''}, {rows} row{'s' if rows > 1 else ''}"
                    " a commit",
                    "rows/s",
                    POSTGRES,
                    "commits",
                    "rows",
                    dsn=dsn,
                    writers=writers,
                    rows=rows,
                    seconds=SECONDS / 2,
                )
                for writers, rows in WRITES
            ),
            Limit(
                "Broker, aiokafka's batches, acks=all, 600 bytes",
                "records/s",
                BROKER,
                "produce",
                "records",
                bootstrap=stand.stack.bootstrap,
                topic=TOPIC,
                seconds=SECONDS,
            ),
        ]
        for number in range(1, stand.options.rounds + 1):
            for limit in known:
                stand.say(f"round {number}, {await limit.round(stand)}")
    notes = ["`fsync` and `synchronous_commit` on; the drivers are those of the platform (asyncpg, aiokafka)."]
    return Findings([limit.figure() for limit in known], [limit.cpu() for limit in known], notes=notes)


PART = Part("limits", "Limits of what is below", 15, measure)
