"""Flame graphs of the services under the load of one part, as SVG.

    python -m tests.bench.profile [accept|end_to_end|whole_life] [--seconds 20] [--output docs/profiles]

py-spy takes the samples: from the environment variable PY_SPY, or from the path. It is no dependency of the project.
The load is that of the part at full speed; the rate that was seen meanwhile is printed, and is lower than without a
profiler.
"""

import argparse
import asyncio
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.local.state import SERVICES
from tests.bench.generator import running_generator
from tests.bench.stand import Options, Stand, new_stack
from tests.support.stack import PROJECT

SAMPLES_PER_SECOND = 200
WARM_SECONDS = 3.0
CONNECTIONS = 32
# What is looked at in each part; the others are held still in `accept`, as in the part itself.
LOOKED_AT: dict[str, tuple[str, ...]] = {"accept": ("intake",), "end_to_end": SERVICES, "whole_life": SERVICES}
MISSING = """py-spy is not here, and without it there are no flame graphs. Install it anywhere, for example
    python3 -m venv /tmp/spy && /tmp/spy/bin/pip install py-spy
and run again with PY_SPY=/tmp/spy/bin/py-spy. It must be allowed to trace processes of the same user (root, or
kernel.yama.ptrace_scope=0)."""


class CannotProfile(Exception):
    """py-spy is missing or was not allowed to look; the text is for the person at the terminal."""


def profiler() -> str:
    """The path of py-spy. Raises `CannotProfile`."""
    found = os.environ.get("PY_SPY") or shutil.which("py-spy")
    if found is None or shutil.which(found) is None:
        raise CannotProfile(MISSING)
    return found


async def load(stand: Stand, part: str, seconds: float) -> dict[str, Any]:
    """The part's load, at full speed."""
    url, key = f"{stand.stack.url('intake')}/v1/tickets", stand.key("front_line")
    if part == "accept":
        return await stand.load.run("closed", url=url, key=key, connections=CONNECTIONS, seconds=seconds)
    about = {"bootstrap": stand.stack.bootstrap, "branches": sorted(stand.facts["branch_keys"])}
    if part == "end_to_end":
        return await stand.load.run("pipeline", url=url, key=key, seconds=seconds, **about)
    about |= {"dispatch_url": stand.stack.url("dispatch"), "callback_key": stand.key("callback")}
    return await stand.load.run("life", url=url, key=key, seconds=seconds, connections=CONNECTIONS, **about)


async def record(stand: Stand, part: str, seconds: float, folder: Path, spy: str) -> list[Path]:
    """One picture for each service that the part is about. Raises `CannotProfile`."""
    await load(stand, part, WARM_SECONDS)
    await stand.drained()
    names = LOOKED_AT[part]
    pictures = [folder / f"{part}-{name}.svg" for name in names]
    with stand.machine.held(*(name for name in SERVICES if name not in names)):
        looking = [
            await _look(spy, stand.stack.pid(name), seconds, path) for name, path in zip(names, pictures, strict=True)
        ]
        done = await load(stand, part, seconds)
        for process in looking:
            output = (await process.communicate())[0].decode(errors="replace")
            if process.returncode != 0:
                raise CannotProfile(f"py-spy ended with {process.returncode}:\n{output}")
    for name, path in zip(names, pictures, strict=True):
        path.write_text(entitled(path.read_text(encoding="utf-8"), f"{part}: {name}"), encoding="utf-8")
    stand.say(f"{part}: {done['rate']:,.0f} tickets/s accepted with the profiler at work")
    return pictures


def entitled(picture: str, title: str) -> str:
    """The picture with a title of ours; py-spy writes its command line there, with paths of this machine."""
    return re.sub(r'(<text id="title"[^>]*>)[^<]*', lambda found: found[1] + title, picture, count=1)


async def _look(spy: str, pid: int, seconds: float, path: Path) -> asyncio.subprocess.Process:
    words = ("record", "--format", "flamegraph", "--rate", str(SAMPLES_PER_SECOND), "--duration", str(round(seconds)))
    return await asyncio.create_subprocess_exec(
        *(spy, *words, "--output", str(path), "--pid", str(pid)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def run(parts: Sequence[str], options: Options, seconds: float, folder: Path, spy: str) -> None:
    for part in parts:
        with new_stack(options) as stack:
            async with running_generator() as generator:
                stand = Stand(stack, generator, options)
                for picture in await record(stand, part, seconds, folder, spy):
                    print(picture, flush=True)
                await stand.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description="Flame graphs through py-spy.")
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(LOOKED_AT), default=["accept", "end_to_end"])
    parser.add_argument("--seconds", type=float, default=20.0, help="of load and of looking, each part")
    parser.add_argument("--broker", choices=["embedded", "kafka"], default=os.environ.get("BROKER") or "embedded")
    parser.add_argument("--ports", type=int, default=int(os.environ.get("BENCH_PORTS") or 22_000), help="first port")
    parser.add_argument("--output", type=Path, default=PROJECT / "docs" / "profiles", help="folder of the pictures")
    given = parser.parse_args()
    if unknown := set(given.parts) - LOOKED_AT.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(LOOKED_AT)}")
    try:
        spy = profiler()
        given.output.mkdir(parents=True, exist_ok=True)
        options = Options(broker=given.broker, ports=given.ports)
        asyncio.run(run(given.parts, options, given.seconds, given.output, spy))
    except CannotProfile as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
