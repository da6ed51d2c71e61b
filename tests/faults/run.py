"""`make faults`: a whole stack under a seeded plan of faults, and whether everything held.

    python -m tests.faults.run [--dose smoke|ci|nightly] [--seed N] [--broker embedded|kafka] [--rate 10]

Exit code 1 on any breach. Everything of a run is in `<data>/<seed>/`: the stack's folder, the journal, what was
injected, and `report.json`.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg

from deploy.local import postgres
from deploy.local.postgres import database_name
from deploy.local.run import PACK, CannotRun, Options, check_ports, claim_folder
from deploy.local.state import SERVICES, load_clock, load_secrets
from deploy.local.supervisor import PROJECT
from shared.contracts.topics import topic_file
from shared.policy.loader import load_pack
from tests.faults.faults import Faults
from tests.faults.journal import read_journal
from tests.faults.planted import PLANTS
from tests.faults.quiet import quiet, watch_database
from tests.faults.records import MARK, Log
from tests.faults.report import QUIET_SECONDS, Report
from tests.faults.schedule import COURSES, plan
from tests.faults.stack import DISK, FaultStack

AUDIT = "deploy.audit"
AUDIT_SECONDS = 120
AUDIT_QUIET_SECONDS = 20
DRIVER_SECONDS = 30.0
WARM_UP_SECONDS = 3.0


class Driver:
    """The driver's process, and the lines that it obeys."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, folder: Path, given: argparse.Namespace) -> "Driver":
        words = ["--run-file", str(folder / "stack/run.json"), "--journal", str(folder / "journal.jsonl")]
        words += ["--seed", str(given.seed), "--rate", str(given.rate), "--patience", str(given.patience)]
        with (folder / "driver.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.faults.driver", *words),
                cwd=PROJECT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        return cls(process)

    async def watch(self) -> None:
        """Nothing is worth doing without it. Raises `CannotRun` when it ends before its time."""
        code = await self._process.wait()
        raise CannotRun(f"the driver ended with {code}: see driver.log")

    def say(self, line: str) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(line.encode() + b"\n")

    async def finish(self, patience: float) -> dict[str, Any]:
        """Its summary; an empty one when it broke down."""
        self.say("finish")
        with suppress(TimeoutError, ValueError):
            async with asyncio.timeout(patience + DRIVER_SECONDS):
                output, _ = await self._process.communicate()
                summary: dict[str, Any] = json.loads(output)
                return summary
        return {}

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


async def play(stack: FaultStack, folder: Path, given: argparse.Namespace) -> Report:
    """The plan, the rest after it, the end of every ticket, the checks."""
    chance = random.Random(f"run {given.seed}")
    course = COURSES[given.dose]
    faults = Faults(stack, Log(stack, folder / "injected.jsonl", chance), chance)
    watching = asyncio.create_task(watch_database(stack, faults.outages))
    driver = await Driver.start(folder, given)
    try:
        await asyncio.sleep(WARM_UP_SECONDS)
        await first_of(faults.carry_out(plan(course, given.seed), time.monotonic()), driver.watch())
        stack.say("all faults are over; nothing new comes in")
        driver.say("hold")
        seconds, state = await quiet(stack, QUIET_SECONDS, under_way=True)
        stack.say(f"at rest after {seconds} s: {state}")
        summary = await driver.finish(given.patience)
        settled, state = await quiet(stack, QUIET_SECONDS, under_way=False)
        poison = await check_poison(stack, faults.log.poison)
        audit = await asyncio.to_thread(run_audit, folder)
    finally:
        watching.cancel()
        await driver.end()
    attempts = await asyncio.to_thread(read_journal, folder / "journal.jsonl")
    report = Report(
        given.seed,
        given.dose,
        given.broker,
        attempts,
        faults.done,
        faults.kills,
        faults.outages,
        summary,
        seconds,
        str(state),
        poison,
        audit,
    )
    if settled is None:
        report.breaches.append(f"not at rest after every ticket had ended: {state}")
    report.judge()
    return report


async def first_of(*work: Coroutine[Any, Any, None]) -> None:
    """Until one has ended; the others are cancelled. Raises what it raised."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def check_poison(stack: FaultStack, sent: dict[str, str]) -> dict[str, int]:
    """Each poison record must be a dead letter once in every service that reads its topic. The embedded broker loses
    records when it is restarted, so there some may be missing."""
    readers = {topic.name: topic.consumers for topic in topic_file().topics}
    counts = Counter({"sent": len(sent), "twice": 0, "missing": 0})
    for service in SERVICES:
        connection = await asyncpg.connect(stack.dsn(database_name(service)))
        try:
            rows = await connection.fetch("SELECT convert_from(headers, 'UTF8') AS headers FROM dead_letters")
        finally:
            await connection.close()
        marks = Counter(mark for row in rows if (mark := dict(json.loads(row["headers"])).get(MARK)))
        counts["twice"] += sum(1 for times in marks.values() if times > 1)
        counts["missing"] += sum(1 for mark, topic in sent.items() if service in readers[topic] and not marks[mark])
    return dict(counts)


def run_audit(folder: Path) -> dict[str, Any]:
    """The checker over journal, databases and topics, where it is installed."""
    if importlib.util.find_spec(AUDIT) is None:
        return {"summary": f"{AUDIT} is not there", "exit_code": 0}
    words = ["--run-file", str(folder / "stack/run.json"), "--journal", str(folder / "journal.jsonl")]
    words += ["--quiet-seconds", str(AUDIT_QUIET_SECONDS), "--json"]
    output = folder / "audit.json"
    with output.open("wb") as file:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", AUDIT, *words],
            cwd=PROJECT,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=AUDIT_SECONDS,
            check=False,
        )
    result = {"exit_code": done.returncode, "seconds": round(time.monotonic() - began, 1), "output": str(output)}
    said = output.read_text(encoding="utf-8", errors="replace")
    try:
        invariants = json.loads(said)["invariants"]
    except ValueError:
        return {**result, "summary": said.strip()[-200:]}
    checked = ", ".join(f"{each['name']} {each['checked']}" for each in invariants)
    found = [f"{each['name']}: {text}" for each in invariants for text in each["shown"]]
    missing = [f"{each['name']}: not compared: {text}" for each in invariants for text in each["not_compared"]]
    return {**result, "summary": f"checked {checked}", "found": found, "not_compared": missing}


async def run(folder: Path, options: Options, given: argparse.Namespace) -> int:
    secrets = load_secrets(options.data, [branch.id for branch in load_pack(PACK).branches])
    clock = load_clock(options.data, options.time_scale, datetime.now(UTC))
    sabotage = ("--plant", given.plant) if given.plant else ()
    megabytes = COURSES[given.dose].disk_megabytes
    stack = FaultStack(options, secrets, clock, random.Random(f"network {given.seed}"), megabytes, sabotage)
    began = time.monotonic()
    await stack.open()
    try:
        await stack.start()
        report = await play(stack, folder, given)
        if report.breaches and given.stay:
            print(f"\n{report.table()}\n\neverything stays as it is, to be looked at; Ctrl-C ends it", flush=True)
            await asyncio.Event().wait()
    finally:
        await stack.stop()
        await stack.close()
    path = folder / "report.json"
    path.write_text(json.dumps(report.content(), indent=2, ensure_ascii=False, default=str), encoding="utf-8")
    print(f"\n{report.table()}\n  {'took':<19} {time.monotonic() - began:.0f} s; all of it: {path}")
    return 1 if report.breaches else 0


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.run", description="Random faults on a whole stack.")
    environment = os.environ
    parser.add_argument("--dose", choices=sorted(COURSES), default=environment.get("DOSE") or "ci")
    parser.add_argument("--seed", type=int, default=environment.get("SEED") or random.SystemRandom().randrange(10_000))
    parser.add_argument("--broker", choices=["embedded", "kafka"], default=environment.get("BROKER") or "embedded")
    parser.add_argument("--rate", type=float, default=10.0, help="new complaints a second, on average")
    parser.add_argument("--time-scale", type=float, default=600.0, help="seconds of business time in a real second")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds for the last tickets to end")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="a bug to put into every service: it must be found")
    parser.add_argument("--stay", action="store_true", help="after a breach leave everything running, until Ctrl-C")
    parser.add_argument("--port-base", type=int, default=23_000, help="the first of some 800 ports")
    parser.add_argument("--data", type=Path, default=Path(environment.get("DATA") or ".data") / "faults")
    return parser.parse_args(words)


def main() -> None:
    given = parse(sys.argv[1:])
    print(f"seed {given.seed}, dose {given.dose}, broker {given.broker}", flush=True)
    folder = (given.data / str(given.seed)).resolve()
    with suppress(OSError):
        subprocess.run(["umount", "--lazy", str(folder / "stack" / DISK)], check=False, stderr=subprocess.DEVNULL)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    options = Options(
        folder / "stack",
        given.broker,
        given.time_scale,
        given.port_base,
        given.port_base + 100,
        given.port_base + 200,
    )
    try:
        with claim_folder(options.data):
            asyncio.run(postgres.clear_leftovers(options.data / DISK / "postgres"))
            check_ports(options.ports())
            code = asyncio.run(run(folder, options, given))
    except CannotRun as refusal:
        sys.exit(f"cannot run: {refusal}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code)


if __name__ == "__main__":
    main()
