"""The one-machine stack with proxies between its parts, and with roles run apart, so that each dies by itself.

Everything is started by the real runner; only the ports at which the parts find each other, and the command lines of
the services, are others. `sabotage` are words for `tests.faults.sabotage`, through which every service runs: there
failpoints and planted bugs come in.
"""

import asyncio
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deploy.local import postgres
from deploy.local.programs import HOST, healthy, service_environment
from deploy.local.run import Options, Stack
from deploy.local.state import SERVICES, BusinessClock, Secrets
from deploy.local.supervisor import Program
from tests.faults.proxy import Proxy

DOOR_OFFSET = 500
SECOND_OFFSET = 10
READY_SECONDS = 90.0
# Which roles of which service are a process of their own. What has the API bears the service's name. The front line's
# way leads to two processes, as it would where 99 % are promised: the proxy sends each connection to one that listens,
# and one's relay stands by for the other's.
APART = {
    "intake": ("intake", "api,consumer,relay,jobs"),
    "intake-second": ("intake", "api,relay"),
    "review": ("review", "api,consumer,relay,jobs"),
    "dispatch": ("dispatch", "api,consumer,jobs"),
    "dispatch-relay": ("dispatch", "relay"),
    "sla": ("sla", "api"),
    "sla-consumer": ("sla", "consumer"),
    "sla-relay": ("sla", "relay"),
    "sla-jobs": ("sla", "jobs"),
}
DISK = "disk"
# A small WAL, so that the disk can be small; the size of the disk is reached by ballast, not by waiting.
DATABASE_SETTINGS = {"max_wal_size": "256MB", "wal_keep_size": "0", "track_commit_timestamp": "off"}


def roles_of(program: str) -> list[str]:
    return APART[program][1].split(",")


@dataclass(frozen=True)
class Clocks:
    """One file a program, with the seconds by which its wall clock is wrong."""

    folder: Path

    def path(self, program: str) -> Path:
        return self.folder / program

    def shift(self, program: str, seconds: float) -> None:
        self.path(program).write_text(f"{seconds}", encoding="ascii")


class FaultStack(Stack):
    """The stack under faults. Use `open` and `close` around `start` and `stop`."""

    def __init__(
        self,
        options: Options,
        secrets: Secrets,
        clock: BusinessClock,
        chance: random.Random,
        disk_megabytes: int,
        sabotage: Sequence[str] = (),
    ) -> None:
        ports = options.ports()
        doors = {name: ports[name] + DOOR_OFFSET for name in (*SERVICES, "postgres", "kafka")}
        super().__init__(options, secrets, clock, doors)
        self.second = ports["intake"] + SECOND_OFFSET
        behind = {name: [ports[name]] for name in doors} | {"intake": [ports["intake"], self.second]}
        self.proxies = {name: Proxy(name, doors[name], behind[name], chance) for name in doors}
        self.clocks = Clocks(options.data / "clocks")
        self.clocks.folder.mkdir(exist_ok=True)
        self.disk = options.data / DISK
        self.small_disk = False
        self._disk_megabytes = disk_megabytes
        self._sabotage = sabotage

    def _prefix(self, program: str) -> Sequence[str]:
        """The words before a service's module."""
        through = (sys.executable, "-m", "tests.faults.sabotage")
        return (*through, "--clock", str(self.clocks.path(program)), *self._sabotage)

    def programs(self) -> list[Program]:
        found = []
        for name, (service, roles) in APART.items():
            program = Program(
                name=name,
                command=(*self._prefix(name), f"services.{service}", "--roles", roles),
                environment=service_environment(self.layout, service),
                ready_seconds=READY_SECONDS,
            )
            if "api" in roles:
                port = self.layout.ports[service] if name == service else self.second
                environment = {**program.environment, f"{service.upper()}_HTTP_PORT": str(port)}
                program = replace(program, environment=environment, ready=healthy(f"http://{HOST}:{port}"))
            found.append(program)
        return found

    async def server(self) -> postgres.Postgres:
        """PostgreSQL on a disk of its own that can be filled, if we may mount one."""
        folder, port = self.disk / "postgres", self.layout.ports["postgres"]
        server = await asyncio.to_thread(postgres.prepare, folder, port, self.layout.secrets.postgres_password)
        return replace(server, settings=postgres.SETTINGS | DATABASE_SETTINGS)

    def dsn(self, database: str = "postgres") -> str:
        """The superuser's address, past the proxy."""
        password = self.layout.secrets.postgres_password
        return f"postgresql://{postgres.SUPERUSER}:{password}@{HOST}:{self.layout.ports['postgres']}/{database}"

    async def open(self) -> None:
        """Mount the small disk where that is allowed, and open the proxies."""
        self.disk.mkdir(exist_ok=True)
        self.disk.chmod(0o711)
        self.small_disk = await asyncio.to_thread(_mount, self.disk, self._disk_megabytes)
        for proxy in self.proxies.values():
            await proxy.open()

    async def close(self) -> None:
        for proxy in self.proxies.values():
            await proxy.close()
        if self.small_disk:
            await asyncio.to_thread(subprocess.run, ["umount", "--lazy", str(self.disk)], check=False)


def _mount(folder: Path, megabytes: int) -> bool:
    """Whether a small disk in memory could be mounted: only root may."""
    if not shutil.which("mount"):
        return False
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=711", "tmpfs", str(folder)]
    return subprocess.run(words, check=False, stderr=subprocess.DEVNULL).returncode == 0
