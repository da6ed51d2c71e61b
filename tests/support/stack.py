"""A whole one-machine stack beside whatever else runs: own folder, own ports, started by the real runner."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 180.0
STOP_SECONDS = 40.0
PROJECT = Path(__file__).parents[2]


class RunningStack:
    """`python -m deploy.local.run` with its `run.json`. `say` is what the runner printed so far."""

    def __init__(
        self,
        data: Path,
        port_base: int,
        *,
        broker: str = "embedded",
        security: str = "none",
        time_scale: float = 1.0,
    ) -> None:
        self.data = data
        self.log = data.with_suffix(".log")
        words = [
            *(sys.executable, "-m", "deploy.local.run", "--data", str(data), "--broker", broker),
            *("--kafka-security", security),
            *("--time-scale", str(time_scale), "--port-base", str(port_base)),
            *("--kafka-port", str(port_base + 100), "--postgres-port", str(port_base + 200)),
        ]
        self._output = self.log.open("ab")
        self.process = subprocess.Popen(words, cwd=PROJECT, stdout=self._output, stderr=self._output)
        deadline = time.monotonic() + START_SECONDS
        while not (data / "run.json").exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the stack did not start:\n{self.said[-4000:]}")
            time.sleep(0.1)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def facts(self) -> dict[str, Any]:
        """The content of `run.json`, read anew."""
        facts: dict[str, Any] = json.loads((self.data / "run.json").read_text())
        return facts

    def url(self, service: str) -> str:
        return str(self.facts["services"][service]["url"])

    def pid(self, service: str) -> int:
        return int(self.facts["services"][service]["pid"])

    @property
    def bootstrap(self) -> str:
        return str(self.facts["kafka"]["bootstrap_servers"])

    def program_pid(self, words: str) -> int:
        """The process of this stack whose command line holds these words and our port or folder."""
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if words in line and self._descends(int(entry.name)):
                    return int(entry.name)
        raise LookupError(f"no process of this stack runs {words!r}")

    def _descends(self, pid: int) -> bool:
        while pid > 1:
            if pid == self.process.pid:
                return True
            pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        return False

    def client(self, role: str, service: str, branch: str | None = None) -> httpx.Client:
        """An HTTP client with the key of a role (or of a branch)."""
        facts = self.facts
        key = facts["branch_keys"][branch] if branch else facts["keys"][role]
        return httpx.Client(
            base_url=self.url(service),
            headers={"Authorization": f"Bearer {key}"},
            timeout=30,
            trust_env=False,
        )

    def ready(self) -> dict[str, int]:
        """The status of each service's readiness; 0 when it does not answer."""
        statuses: dict[str, int] = {}
        for name, service in self.facts["services"].items():
            try:
                statuses[name] = httpx.get(f"{service['url']}/health/ready", timeout=5, trust_env=False).status_code
            except httpx.HTTPError:
                statuses[name] = 0
        return statuses

    def stop(self) -> float:
        """Ctrl-C; the seconds until everything was gone."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.kill(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._output.close()
        return time.monotonic() - began


@contextlib.contextmanager
def running_stack(
    data: Path, port_base: int, *, broker: str = "embedded", security: str = "none", time_scale: float = 1.0
) -> Iterator[RunningStack]:
    stack = RunningStack(data, port_base, broker=broker, security=security, time_scale=time_scale)
    try:
        yield stack
    finally:
        stack.stop()
