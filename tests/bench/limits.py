"""The limits under everything: what FastAPI, PostgreSQL and the broker do by themselves on this machine."""

from shared.contracts.topics import INTAKE, dead_letter_topic
from tests.bench.figures import Figure, Findings
from tests.bench.generator import beside
from tests.bench.stand import BARE_PORT, Part, Stand

SECONDS = 2.0
CONNECTIONS = 32
# Connections that commit at the same time, and rows in a transaction of each.
WRITES = ((1, 1), (8, 1), (32, 1), (1, 50))


async def measure(stand: Stand) -> Findings:
    url = f"http://127.0.0.1:{stand.port(BARE_PORT)}"
    rows: dict[tuple[int, int], list[float]] = {write: [] for write in WRITES}
    empty: list[float] = []
    acknowledged: list[float] = []
    # Any topic does that no service reads.
    topic = dead_letter_topic(INTAKE)
    async with (
        beside("tests.bench.bare", url, str(stand.port(BARE_PORT))),
        stand.own_database("bench_limits") as dsn,
    ):
        for number in range(1, stand.options.rounds + 1):
            done = await stand.load.run("empty", url=f"{url}/empty", connections=CONNECTIONS, seconds=SECONDS)
            empty.append(done["rate"])
            for writers, at_once in WRITES:
                done = await stand.load.run("commits", dsn=dsn, writers=writers, rows=at_once, seconds=SECONDS / 2)
                rows[writers, at_once].append(done["rows_rate"])
            done = await stand.load.run("produce", bootstrap=stand.stack.bootstrap, topic=topic, seconds=SECONDS)
            acknowledged.append(done["rate"])
            stand.say(f"round {number}: FastAPI {empty[-1]:,.0f}/s, produced {acknowledged[-1]:,.0f}/s")
    figures = [Figure("FastAPI, empty request, 32 connections", "requests/s", empty)]
    figures += [
        Figure(f"PostgreSQL, {writers} writers, {at_once} rows a commit", "rows/s", rows[writers, at_once])
        for writers, at_once in WRITES
    ]
    figures.append(Figure("Broker, aiokafka's batches, acks=all, 600 bytes", "records/s", acknowledged))
    return Findings(figures, notes=["`fsync` and `synchronous_commit` on; the drivers are those of the platform."])


PART = Part("limits", "Limits of what is below", 30, measure)
