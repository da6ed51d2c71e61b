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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

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
NO_STACK = 2

# The first is played beside all the others: its hours go by meanwhile.
SCENES = (
    Scene("Silent branch: the order goes overdue and climbs its ladder 逾期升级", silent_branch, hours=True),
    Scene("Satisfied at the callback: a complaint's whole way 回访满意", satisfied),
    Scene("First contact: an inquiry that the agent can answer 首次解决", first_contact),
    Scene("Elements missing: returned by the rules, supplemented 要素不全", deficient),
    Scene("Wrong city: filed by the number's home, corrected by the rules 派错地市", wrong_city),
    Scene("Returned by a branch: a reviewer sends it on 分公司退单", branch_return),
    Scene("Harassing call filed as an inquiry: held and reclassified 骚扰电话", harassing),
    Scene("Repeat: the same customer and problem again 重复投诉", repeat),
    Scene("Batch: ten complaints of one fault, and an eleventh 批量投诉", crowd),
    Scene("Not reached at first, then satisfied 未接通", not_reached),
    Scene("Reopened: the customer is not satisfied 不满意重派", reopened),
    Scene("Withdrawn: the branch need not act any more 撤单", withdrawn),
    Scene("Duplicate: merged by a reviewer 并单", duplicate),
    Scene("Major complaint: the supervisor's opinion first 重大投诉", major),
    Scene("Points base: a grumble, closed before 17:00 积分基地转办", points),
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
    return parser.parse_args(words)


async def find_stack(run_file: Path, slow: bool) -> dict[str, Any]:
    """The content of `run.json`, once every service says that it is ready. Raises: `CannotPlay`."""
    try:
        run: dict[str, Any] = json.loads(run_file.read_text(encoding="utf-8"))
        scale, services = float(run["time_scale"]), dict(run["services"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CannotPlay(f"no stack is running ({run_file} is not there): start one with `{START}`") from None
    if scale < SMALLEST_SCALE and not slow:
        raise CannotPlay(
            f"the stack runs at TIME_SCALE={scale:g}, and the demo needs hours to pass in seconds: stop it and start "
            f"`{START} DATA=.data-demo`, then `make demo DATA=.data-demo`; or play without the scenes that need hours, "
            f"with `{Path(sys.executable).name} -m deploy.local.demo --slow`"
        )
    deadline = time.monotonic() + READY_SECONDS
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        for name, service in services.items():
            while trouble := await _not_ready(client, service["url"]):
                if time.monotonic() > deadline or isinstance(trouble, httpx.ConnectError):
                    raise CannotPlay(f"{name} is not ready ({trouble}): look at `make run`, or start it: `{START}`")
                await asyncio.sleep(0.5)
    return run


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
    account.scene_begins(scene.title)
    try:
        return await scene.play(stage)
    except NotSeen as missing:
        numbers = "\n".join(case.ticket_no for case in stage.cases[:2])
        account.note(town.now(), None, f"NOT SEEN: {missing}")
        return Row(scene.title, numbers, proof=", ".join(stage.proof), missing=str(missing))
    finally:
        account.scene_ended()


async def play(run: dict[str, Any], scenes: Sequence[Scene], seed: int) -> int:
    """Play the scenes; the exit code."""
    pack = load_pack(PACK)
    account = Account(pack)
    town = Town(run, Ledger(account.tell), random.Random(seed), account.adopt)  # noqa: S311
    began = time.monotonic()
    account.console.print(
        f"A day at the complaints centre: an hour passes in {3600 / town.scale:.3g} s, seed {seed}.", highlight=False
    )
    rows: list[Row] = []
    try:
        jobs = await town.open(branch.id for branch in pack.branches)
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(job) for job in jobs]
            with account.playing(len(scenes)):
                beside = [group.create_task(play_scene(scene, town, account)) for scene in scenes if scene.hours]
                for scene in scenes:
                    if not scene.hours:
                        rows.append(await play_scene(scene, town, account))
                rows[:0] = [await task for task in beside]
            for worker in workers:
                worker.cancel()
    finally:
        await town.close()
    account.summary(rows)
    missing = [row for row in rows if row.missing]
    for row in missing:
        account.console.print(f"NOT SEEN in “{row.scene}”: {row.missing}", style="bold red", highlight=False)
    verdict = f"{len(rows) - len(missing)} of {len(rows)} scenes were seen as they must be"
    account.console.print(f"{verdict}, in {time.monotonic() - began:.0f} s.", highlight=False)
    return 1 if missing else 0


async def run_demo(words: Sequence[str]) -> int:
    options = parse(words)
    run = await find_stack(options.run_file, options.slow)
    scaled = float(run["time_scale"]) >= SMALLEST_SCALE
    scenes = [scene for scene in SCENES if scaled or not scene.hours]
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    return await play(run, scenes, seed)


def main() -> None:
    try:
        sys.exit(asyncio.run(run_demo(sys.argv[1:])))
    except CannotPlay as trouble:
        print(f"cannot play: {trouble}", file=sys.stderr)
        sys.exit(NO_STACK)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
