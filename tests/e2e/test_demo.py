"""`make demo` on a whole stack of its own, as a person would run it; and what it says when there is no stack."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.demo import SCENES
from tests.support.stack import PROJECT, running_stack

PORTS = 21_800
DEMO_SECONDS = 200
PROOFS = (
    *("clock.breached", "order.escalated", "order.urged", "RTE-08", "RTE-18", "RTE-10", "DET-26-HARASSING-PROVINCE"),
    *("GDM-D7", "GDM-L6", "incident.opened", "incident.joined", "GDM-D6", "GDM-M9", "CALLBACK-REOPEN", "RTE-03"),
)


def run_demo(run_file: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.local.demo", "--run-file", str(run_file), *words],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=DEMO_SECONDS,
        check=False,
    )


def test_every_scene_is_seen_on_a_fast_stack(tmp_path: Path) -> None:
    with running_stack(tmp_path / "data", PORTS, time_scale=3600) as stack:
        done = run_demo(stack.data / "run.json", "--seed", "7")
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    assert not done.stderr
    account, summary = done.stdout.split("What the day has shown")
    for scene in SCENES:
        name = scene.title.partition(":")[0]
        assert f"── {name}" in account
        assert name in summary
    assert f"{len(SCENES)} of {len(SCENES)} scenes" in summary
    for proof in PROOFS:
        assert proof in summary


def test_without_a_stack_it_says_how_to_start_one(tmp_path: Path) -> None:
    done = run_demo(tmp_path / "run.json")
    assert done.returncode == 2
    assert "no stack is running" in done.stderr
    assert "make run TIME_SCALE=3600" in done.stderr


def test_a_run_file_that_a_killed_stack_left_behind_is_no_stack(tmp_path: Path) -> None:
    service = {"url": "http://127.0.0.1:1", "pid": 0}
    run_file = tmp_path / "run.json"
    run_file.write_text(json.dumps({"time_scale": 3600, "services": {"intake": service}}))
    done = run_demo(run_file)
    assert done.returncode == 2
    assert "intake is not ready" in done.stderr


@pytest.mark.parametrize("scale", [1, 599])
def test_an_unscaled_stack_is_refused_with_the_remedy(tmp_path: Path, scale: float) -> None:
    run_file = tmp_path / "run.json"
    run_file.write_text(json.dumps({"time_scale": scale, "services": {}}))
    done = run_demo(run_file)
    assert done.returncode == 2
    assert "make run TIME_SCALE=3600" in done.stderr
    assert "--slow" in done.stderr
