"""`make faults` in its smallest dose: a dozen faults on a whole stack, and its verdict. The real doses run apart."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.stack import PROJECT

SEED = 2
PORTS = 24_000
LIMIT_SECONDS = 280


def test_a_dozen_random_faults_lose_nothing(tmp_path: Path) -> None:
    words = ["--dose", "smoke", "--seed", str(SEED), "--broker", "embedded", "--port-base", str(PORTS)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.run", *words, "--data", str(tmp_path)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    report = json.loads((tmp_path / str(SEED) / "report.json").read_text(encoding="utf-8"))
    assert report["breaches"] == []
    assert report["kills"] >= 6
    assert report["driver"]["registered"] > 0
    assert report["poison"]["sent"] > 0
