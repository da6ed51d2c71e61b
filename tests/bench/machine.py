"""CPU and memory of the processes under measurement, as the operating system counts them."""

import contextlib
import os
import re
import signal
from collections.abc import Iterator

import psutil

from deploy.local.state import SERVICES
from tests.support.stack import RunningStack

POSTGRES, BROKER = "postgres", "broker"
SERVERS = (*SERVICES, POSTGRES, BROKER)
BACKGROUND = "postgres, background"
"""What of PostgreSQL's is no session's: vacuum, checkpoints, writers. It is part of `POSTGRES`."""
SESSION = re.compile(r"postgres: \S+ \S+ \d+\.\d+\.\d+\.\d+\(\d+\)")


class Machine:
    """The processes of one stack, and of the floors beside it (`watch`)."""

    def __init__(self, stack: RunningStack) -> None:
        self._stack = stack
        self._watched: dict[str, int] = {}
        self._sessions: dict[int, float] = {}

    def watch(self, name: str, pid: int) -> None:
        """Count this process too, under this name."""
        self._watched[name] = pid

    def cpu(self) -> dict[str, float]:
        """User and system seconds so far, by name; PostgreSQL's many processes, ended ones too, counted as one.

        A session that ended keeps what it had spent when it was last looked at; the rest of it looks like background.
        """
        spent = dict.fromkeys((*SERVERS, *self._watched), 0.0)
        for name, pid in self._watched.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                spent[name] = sum(psutil.Process(pid).cpu_times()[:2])
        for process in psutil.Process(self._stack.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                server = self._server(process)
                if server is not None:
                    # With the children that have ended: backends come and go.
                    spent[server] += sum(process.cpu_times()[: 4 if server == POSTGRES else 2])
                    if server == POSTGRES and SESSION.match(" ".join(process.cmdline())):
                        self._sessions[process.pid] = sum(process.cpu_times()[:2])
        return spent | {BACKGROUND: round(spent[POSTGRES] - sum(self._sessions.values()), 2)}

    def _server(self, process: psutil.Process) -> str | None:
        line = " ".join(process.cmdline())
        for service in SERVICES:
            if f"services.{service}" in line:
                return service
        if process.name() == "postgres":
            return POSTGRES
        return BROKER if "deploy.local.broker" in line or "kafka.Kafka" in line else None

    def memory(self) -> dict[str, float]:
        """Resident mebibytes of each service."""
        return {name: psutil.Process(self._stack.pid(name)).memory_info().rss / 2**20 for name in SERVICES}

    @contextlib.contextmanager
    def held(self, *names: str) -> Iterator[None]:
        """Freeze some services, so that what is measured has the machine for itself."""
        pids = [self._stack.pid(name) for name in names]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
