"""Import: one NDJSON request of very many complaints, and the pipeline that has to digest it.

The other services are held still until intake has answered the last line, so that its rate is its own; then they meet
the whole import at once.
"""

import time

from deploy.local.state import SERVICES
from tests.bench.figures import Cpu, Figure, Findings, Target, milliseconds_a_ticket
from tests.bench.machine import SERVERS
from tests.bench.sampling import memory_of
from tests.bench.stand import Part, Stand

SHORT_RUN_LINES = 10_000
# At this pace even a slow machine has digested the import.
SLOWEST_PER_SECOND = 50
EXTRA_SECONDS = 60


async def measure(stand: Stand) -> Findings:
    lines = stand.options.size or SHORT_RUN_LINES
    await stand.drained()
    before = stand.machine.cpu()
    async with memory_of(stand.machine) as memory:
        with stand.machine.held(*(name for name in SERVICES if name != "intake")):
            done = await stand.load.run(
                "bulk", url=f"{stand.stack.url('intake')}/v1/tickets:batch", key=stand.key("front_line"), lines=lines
            )
            taken = milliseconds_a_ticket(before, stand.machine.cpu(), done["done"], SERVERS)
        imported = time.monotonic()
        most_during_import = dict(memory.most)
        stand.say(f"{done['done']:,} of {lines:,} lines in {done['seconds']:.1f} s; waiting for the pipeline")
        await stand.drained(lines / SLOWEST_PER_SECOND + EXTRA_SECONDS)
    drained = time.monotonic()
    figures = [
        Figure("Lines taken by intake", "/s", [done["rate"]], target=Target("at least", 5_000)),
        Figure("Lines refused", "", [lines - done["done"]], target=Target("at most", 0)),
        Figure("All orders out after the end of the import", "s", [drained - imported]),
        Figure("The pipeline behind it", "tickets/s", [done["done"] / (drained - imported)]),
        Figure("Memory of intake before the import", "MiB", [memory.first["intake"]]),
        Figure("Memory of intake during the import, most", "MiB", [most_during_import["intake"]]),
    ]
    figures += [
        Figure(
            f"Memory of {name} until all is out, most (before: {memory.first[name]:.0f})", "MiB", [memory.most[name]]
        )
        for name in SERVICES
    ]
    used = milliseconds_a_ticket(before, stand.machine.cpu(), done["done"], SERVERS)
    notes = [f"{lines:,} lines, {done['bytes'] / 2**20:.0f} MiB in one request, the others held still meanwhile."]
    if stand.options.broker == "embedded":
        notes.append(
            "The embedded broker keeps 5 MiB a partition (about 30,000 events of intake): a pipeline that is further"
            " behind loses its place, asks for a replay and gets all again; the time of that is in the figures."
        )
    facts = {"done": done, "memory_first": memory.first, "memory_most": memory.most}
    return Findings(figures, [Cpu("imported", [taken]), Cpu("imported and digested", [used])], facts, notes)


PART = Part("import", "Import: NDJSON", 35, measure, spoils=True)
