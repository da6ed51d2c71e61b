"""Gaps whose work ends within the process: an error that no handler of ours takes stands for the end of the process.

A kill cannot be caught, and this runs the `finally` blocks that a kill leaves out. What is durable is the same: the
open transaction is rolled back, what was committed before stays. `test_failpoints.py` kills real processes; a dozen
more of those would cost minutes.
"""

from pathlib import Path

import pytest

from shared import failpoints
from tests.faults.scenes import SCENES, Place, SceneMaker
from tests.support.parts import Broker, Databases


class Died(BaseException):
    """No `Exception`, so that whatever handles errors lets it through."""


def die() -> None:
    raise Died


@pytest.mark.parametrize(("gap", "scenes", "again"), SCENES, ids=[f"{gap}-{made.__name__}" for gap, made, _ in SCENES])
async def test_work_that_ends_in_a_gap_is_done_once_when_it_is_taken_up_again(
    databases: Databases,
    embedded: Broker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gap: str,
    scenes: SceneMaker,
    again: bool,
) -> None:
    async with scenes(Place(databases, embedded, tmp_path, monkeypatch)) as scene:
        for _ in range(2 if again else 1):
            with monkeypatch.context() as armed:
                armed.setitem(failpoints._armed, gap, die)
                with pytest.raises(Died):
                    await scene.work()
        await scene.work()
        await scene.check()
