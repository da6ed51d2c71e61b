"""A day at the complaints centre, played against the running stack and proved by what the topics and the API say.

    make run TIME_SCALE=3600        (in one terminal: an hour passes in a second)
    make demo                       (in another one)

Exit code 0: everything that must happen was seen. 1: something was not; the table says what. 2: there is no stack that
this can be played on, and what to do about it.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from aiokafka.errors import KafkaError

from deploy.local.demo_account import Account, Row
from deploy.local.demo_scenes import (
    branch_return,
    deficient,
    duplicate,
    first_contact,
    harassing,
    major,
    not_reached,
    points,
    reopened,
    repeat,
    satisfied,
    withdrawn,
    wrong_city,
)
from deploy.local.demo_stage import Scene, Stage
from deploy.local.demo_town import Ledger, NotSeen, Town
from deploy.local.demo_trouble import crowd, silent_branch
from deploy.local.run import PACK
from shared.policy.loader import load_pack

START = "make run TIME_SCALE=3600"
SMALLEST_SCALE = 600.0
READY_SECONDS = 30.0
HOLD_SECONDS = 0.5
# Time to read, for a person at a terminal; so the scenes take about as long as the one that is played beside them.
READING_SECONDS = 2.5
NO_STACK = 2
INTERRUPTED = 130

# The first is played beside all the others: its hours go by meanwhile.
SCENES = (
    Scene("Silent branch 逾期升级: a VIP's order goes overdue and climbs its ladder", silent_branch, hours=True),
    Scene("Satisfied customer 回访满意: a complaint's whole way, with a callback at its end", satisfied),
    Scene("First contact 首次解决: an inquiry that the agent can answer", first_contact),
    Scene("Elements missing 要素不全: returned by the rules, supplemented, sent on", deficient),
    Scene("Wrong city 派错地市: filed by the number's home, corrected by the rules", wrong_city),
    Scene("Returned by a branch 分公司退单: not its number; a reviewer sends it on", branch_return),
    Scene("Harassing call 骚扰电话: filed as an inquiry, held and reclassified (AC-02)", harassing),
    Scene("Repeat 重复投诉: the same customer and problem after the closing", repeat),
    Scene("Batch 批量投诉: ten complaints of one fault open an incident, an eleventh joins", crowd),
    Scene("Not reached 未接通: a second callback finds the customer satisfied", not_reached),
    Scene("Reopened 不满意重派: the customer is not satisfied", reopened),
    Scene("Withdrawn 撤单: the branch need not act any more", withdrawn),
    Scene("Duplicate 并单: merged by a reviewer", duplicate),
    Scene("Major complaint 重大投诉: the supervisor's opinion comes first", major),
    Scene("Points base 积分基地转办: a grumble for the centre's points handler", points),
)


class CannotPlay(Exception):
    """There is nothing to play on; the text says what to do."""


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.demo", description="A day at the complaints centre.")
    data = Path(os.environ.get("DATA") or ".data")
    parser.add_argument("--run-file", type=Path, default=data / "run.json", help="what the running stack wrote")
    parser.add_argument("--seed", type=int, help="for the same invented numbers and places again")
    parser.add_argument(
        "--slow", action="store_true", help="play on a stack of any time scale, without the scenes that need hours"
    )
    parser.add_argument(
        "--pace", type=float, help=f"seconds between two scenes ({READING_SECONDS:g} at a terminal, else none)"
    )
    return parser.parse_args(words)


def read_run(run_file: Path, slow: bool) -> dict[str, Any]:
    """The content of `run.json`. Raises: `CannotPlay` when there is none, or its clock is too slow."""
    try:
        run: dict[str, Any] = json.loads(run_file.read_text(encoding="utf-8"))
        scale = float(run["time_scale"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CannotPlay(f"no stack is running ({run_file} is not there): start one with `{START}`") from None
    if scale < SMALLEST_SCALE and not slow:
        raise CannotPlay(
            f"the stack runs at TIME_SCALE={scale:g}, and the demo needs hours to pass in seconds: stop it and start "
            f"`{START} DATA=.data-demo`, then `make demo DATA=.data-demo`; or play without the scene that needs hours: "
            "`.venv/bin/python -m deploy.local.demo --slow`"
        )
    return run


async def wait_until_ready(services: Mapping[str, Any]) -> None:
    """Raises: `CannotPlay` when a service is away or does not become ready."""
    deadline = time.monotonic() + READY_SECONDS
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        for name, service in services.items():
            while trouble := await _not_ready(client, service["url"]):
                if time.monotonic() > deadline or isinstance(trouble, httpx.ConnectError):
                    raise CannotPlay(f"{name} is not ready ({trouble}): look at `make run`, or start it: `{START}`")
                await asyncio.sleep(0.5)


async def _not_ready(client: httpx.AsyncClient, url: str) -> str | httpx.ConnectError | None:
    try:
        answer = await client.get(f"{url}/health/ready")
    except httpx.ConnectError as error:
        return error
    except httpx.TransportError as error:
        return type(error).__name__
    return None if answer.is_success else answer.text[:200]


async def play_scene(scene: Scene, town: Town, account: Account) -> Row:
    stage = Stage(town, account, scene.title)
    account.scene_begins(town.now(), scene.title)
    try:
        return await scene.play(stage)
    except Exception as error:
        # One story that goes wrong, in whatever way, must not hide how the others ended.
        missing = str(error) if isinstance(error, NotSeen) else f"{type(error).__name__}: {error}"
        numbers = "\n".join(case.ticket_no for case in stage.cases[:2])
        account.note(town.now(), None, f"NOT SEEN: {missing}")
        return Row(scene.title, numbers, proof=", ".join(stage.proof), missing=missing)
    finally:
        account.scene_ended()


async def play(run: dict[str, Any], scenes: Sequence[Scene], seed: int, pace: float | None) -> int:
    """Play the scenes, with so many seconds between them; the exit code."""
    pack = load_pack(PACK)
    account = Account(pack)
    chance = random.Random(seed)  # noqa: S311
    town = Town(run, Ledger(account.tell), chance, account.adopt, lambda text: account.note(town.now(), None, text))
    between = pace if pace is not None else READING_SECONDS * account.console.is_terminal
    began = time.monotonic()
    account.console.print(f"A day at the complaints centre: an hour passes in {town.real_seconds(1):g} s, seed {seed}.")
    rows: list[Row] = []
    try:
        jobs = await town.open(branch.id for branch in pack.branches)
        async with asyncio.TaskGroup() as group:
            jobs.append(account.write(town.now, timedelta(seconds=HOLD_SECONDS * town.scale)))
            workers = [group.create_task(job) for job in jobs]
            with account.playing(len(scenes)):
                beside = [group.create_task(play_scene(scene, town, account)) for scene in scenes if scene.hours]
                for scene in scenes:
                    if not scene.hours:
                        rows.append(await play_scene(scene, town, account))
                        await asyncio.sleep(between)
                rows[:0] = [await task for task in beside]
            for worker in workers:
                worker.cancel()
    except KafkaError as error:
        raise CannotPlay(f"the broker does not answer ({type(error).__name__}): look at `make run`") from None
    finally:
        await town.close()
    account.flush()
    account.summary(rows)
    missing = [row for row in rows if row.missing]
    for row in missing:
        account.console.print(f"NOT SEEN in “{row.scene}”: {row.missing}", style="bold red")
    verdict = f"{len(rows) - len(missing)} of {len(rows)} scenes were seen as they must be"
    account.console.print(f"{verdict}, in {time.monotonic() - began:.0f} s.")
    return 1 if missing else 0


async def run_demo(run: dict[str, Any], options: argparse.Namespace) -> int:
    await wait_until_ready(run["services"])
    scaled = float(run["time_scale"]) >= SMALLEST_SCALE
    scenes = [scene for scene in SCENES if scaled or not scene.hours]
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    return await play(run, scenes, seed, options.pace)


def main() -> None:
    options = parse(sys.argv[1:])
    try:
        sys.exit(asyncio.run(run_demo(read_run(options.run_file, options.slow), options)))
    except CannotPlay as trouble:
        print(f"cannot play: {trouble}", file=sys.stderr)
        sys.exit(NO_STACK)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
