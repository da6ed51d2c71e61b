"""The driver: plays everybody around the platform against a running stack. A process of its own that nobody kills.

    python -m tests.faults.driver --run-file .data/run.json --journal journal.jsonl --seed 7 [--rate 10]

It obeys lines on its standard input: `hold` (take no new complaints, begin nothing), then `finish` (bring every ticket
to its end, print a summary as JSON, and leave).
"""

import argparse
import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.faults.branch_clients import BranchClients
from tests.faults.journal import Journal
from tests.faults.office import Office
from tests.faults.people import SUPERVISOR, Town

OPEN = ("registered", "in_review", "returned", "approved", "dispatched", "accepted", "replied", "callback")
OPEN_TOO = ("returned_by_branch", "raised")


async def obey(town: Town) -> None:
    """Follow the lines on standard input until `finish` (or their end)."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while (line := (await reader.readline()).decode().strip()) and line != "finish":
        if line == "hold":
            town.taking = town.acting = False
    town.close()


async def open_tickets(town: Town) -> dict[str, list[str]] | None:
    """Numbers of tickets that have not ended, by status (up to 50 each); None while intake does not answer."""
    found: dict[str, list[str]] = {}
    for status in (*OPEN, *OPEN_TOO):
        page = await town.office.read(SUPERVISOR, "intake", "/v1/tickets", status=status, limit=50)
        if page is None:
            return None
        if page["items"]:
            found[status] = [ticket["ticket_no"] for ticket in page["items"]]
    return found


async def drive(run: dict[str, Any], journal: Journal, seed: int, rate: float, patience: float) -> dict[str, Any]:
    office = Office(run, journal, str(seed))
    town = Town(office, seed, rate)
    clients = BranchClients(run, journal, town)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(office.close)
        work = [town.take_complaints(), clients.run(), *(town.look(step) for step in town.looks())]
        tasks = [asyncio.create_task(each) for each in work]
        stack.callback(lambda: [task.cancel() for task in tasks])
        obeying = asyncio.create_task(obey(town))
        done, _ = await asyncio.wait([obeying, *tasks[1:]], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        deadline = asyncio.get_running_loop().time() + patience
        while (left := await open_tickets(town)) or left is None or town.busy:
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(1)
    summary = {"registered": town.registered, "refused": town.refused, "commands": clients.sent}
    return {**summary, "open": left, "busy": town.busy}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.driver")
    parser.add_argument("--run-file", type=Path, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rate", type=float, default=10.0, help="new complaints a second, on average")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds for the last tickets to end")
    given = parser.parse_args()

    async def run() -> dict[str, Any]:
        journal = Journal(given.journal)
        try:
            return await drive(
                json.loads(given.run_file.read_text(encoding="utf-8")), journal, given.seed, given.rate, given.patience
            )
        finally:
            await journal.close()

    print(json.dumps(asyncio.run(run())), flush=True)


if __name__ == "__main__":
    main()
