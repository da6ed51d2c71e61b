"""`make bench`: what the platform does on this machine, as ratios against floors measured in the same run.

    python -m tests.bench.run [--parts accept,end_to_end] [--broker embedded|kafka] [--rounds 3] [--size N]

It starts a stack of its own, in a folder and on ports of its own, and prints each part as it is done. Results are
written to bench/results/ as JSON and as a Markdown table. Nothing here is asserted; a part that fails is named, and
the run ends with 1.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench.figures import Findings
from tests.bench.generator import running_generator
from tests.bench.parts import PARTS, chosen
from tests.bench.stand import Options, Part, Stand, new_stack
from tests.bench.table import page, section
from tests.support.stack import PROJECT, RunningStack

RESULTS = PROJECT / "bench" / "results"


LONG = """Too long for a default run, and asked for by name:
  make bench PARTS=growth SIZE=10000000    beside ten million stored tickets
  make bench PARTS=deadlines SIZE=5000000  100,000 due in a minute; the sweep with five million open clocks
  make bench PARTS=import SIZE=100000      100,000 lines in one request
  make bench PARTS=hour                    tables, indexes and dead rows after an hour's run
  make bench PARTS=scale BROKER=kafka      one, two and four instances
"""


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Each option is also an environment variable, set by `make bench NAME=…`."""
    default = "\n".join(f"  {part.name:<12} {part.seconds:>4} s  {part.title}" for part in PARTS if part.by_default)
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.run",
        description="Measure the platform: ratios against floors of the same run, CPU milliseconds a ticket.",
        epilog=f"A default run, less than ten minutes on two cores:\n{default}\n\n{LONG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    given = os.environ
    parser.add_argument("--parts", default=given.get("PARTS", ""), help="comma-separated; none: a default run (PARTS)")
    parser.add_argument("--broker", choices=["embedded", "kafka"], default=given.get("BROKER") or "embedded")
    parser.add_argument("--rounds", type=int, default=int(given.get("ROUNDS") or 3), help="of each figure (ROUNDS)")
    parser.add_argument(
        "--size",
        type=int,
        default=int(given.get("SIZE") or 0),
        help="stored tickets, lines, clocks: see below (SIZE)",
    )
    parser.add_argument("--ports", type=int, default=int(given.get("BENCH_PORTS") or 22_000), help="first port used")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args(words)
    try:
        options.parts = chosen(options.parts)
    except ValueError as error:
        parser.error(str(error))
    return options


class Stacks:
    """The stack in use, and a new one after a part that spoiled it."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._stack: RunningStack | None = None
        self._held = contextlib.ExitStack()

    def current(self) -> RunningStack:
        if self._stack is None:
            print("… starting a stack", flush=True)
            self._stack = self._held.enter_context(new_stack(self._options))
        return self._stack

    def drop(self) -> None:
        self._stack = None
        self._held.close()


async def measure(parts: Sequence[Part], options: Options) -> tuple[dict[str, Findings], dict[str, Any]]:
    """The findings of each part that could be measured, and what the load generator says of itself."""
    found: dict[str, Findings] = {}
    jobs: list[dict[str, Any]] = []
    stacks = Stacks(options)
    try:
        for part in parts:
            began = time.monotonic()
            try:
                stack = stacks.current()
                async with running_generator() as generator:
                    print(f"… {part.name}: {part.title} (about {part.seconds} s)", flush=True)
                    found[part.name] = await _measured(part, Stand(stack, generator, options))
                    jobs += [{"part": part.name, **job} for job in generator.jobs]
            except Exception:
                traceback.print_exc()
                stacks.drop()
                continue
            print(f"\n{section(part.title, found[part.name])}", flush=True)
            print(f"… {part.name} took {time.monotonic() - began:.0f} s", flush=True)
            if part.spoils:
                stacks.drop()
    finally:
        stacks.drop()
    return found, {"load_generator": jobs}


async def _measured(part: Part, stand: Stand) -> Findings:
    try:
        return await part.measure(stand)
    finally:
        await stand.close()


def about(options: Options, seconds: float) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "broker": {"embedded": "embedded", "kafka": "Apache Kafka"}[options.broker],
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "rounds": options.rounds,
        "minutes": round(seconds / 60, 1),
        "command": f"make bench{_given()}",
    }


def _given() -> str:
    return "".join(
        f" {name}={os.environ[name]}" for name in ("PARTS", "BROKER", "ROUNDS", "SIZE") if os.environ.get(name)
    )


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def plain(found: Findings) -> dict[str, Any]:
    """For JSON: the figures with what follows from them."""
    figures = [dataclasses.asdict(figure) | {"ratios": figure.ratios, "met": figure.met} for figure in found.figures]
    return dataclasses.asdict(found) | {"figures": figures}


def files(folder: Path, options: Options, parts: Sequence[Part]) -> Iterator[Path]:
    """The JSON file and the Markdown file of this run; parts that were chosen by name stand in their names."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{datetime.now(UTC):%Y-%m-%d}-{options.broker}" + (
        "".join(f"-{part.name}" for part in parts) if options.named else ""
    )
    yield folder / f"{stem}.json"
    yield folder / f"{stem}.md"


def main() -> int:
    given = arguments()
    named = sorted(part.name for part in given.parts) != sorted(part.name for part in PARTS if part.by_default)
    options = Options(given.broker, given.rounds, given.size or None, given.ports, named)
    began = time.monotonic()
    found, more = asyncio.run(measure(given.parts, options))
    said = about(options, time.monotonic() - began)
    text = page(said, [section(part.title, found[part.name]) for part in given.parts if part.name in found])
    as_json, as_markdown = files(given.results, options, given.parts)
    as_json.write_text(
        json.dumps(said | {"parts": {name: plain(each) for name, each in found.items()}} | more, indent=1) + "\n"
    )
    as_markdown.write_text(text)
    print(f"\n{text}\n… written to {as_json} and {as_markdown}")
    if missing := [part.name for part in given.parts if part.name not in found]:
        print(f"not measured: {', '.join(missing)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
