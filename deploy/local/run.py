"""Gongdan on one machine: PostgreSQL, a broker and the four services, started in order and kept running.

    python -m deploy.local.run [--data .data] [--broker embedded|kafka] [--time-scale 1] [--port-base 8001] …

Each option is also an environment variable (DATA, BROKER, KAFKA_SECURITY, TIME_SCALE, PORT_BASE,
KAFKA_PORT, POSTGRES_PORT).
What a client needs (addresses, keys) is printed and written to `<data>/run.json`. Ctrl-C stops everything.
"""

import argparse
import asyncio
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from aiokafka.errors import KafkaError

from deploy.kafka import access
from deploy.kafka.admin import Refused
from deploy.local import kafka, postgres
from deploy.local.banner import banner
from deploy.local.programs import Layout, embedded_broker, migrations, service_programs, topic_program
from deploy.local.state import SERVICES, BusinessClock, ClockRefused, Secrets, load_clock, load_secrets, write_private
from deploy.local.supervisor import PROJECT, Program, StartFailed, Supervisor
from shared.messaging.broker import MECHANISM
from shared.policy.loader import load_pack

PACK = "mobile_operator"
BRANCHES = tuple(branch.id for branch in load_pack(PACK).branches)


@dataclass(frozen=True)
class Options:
    data: Path
    broker: str
    time_scale: float
    port_base: int
    kafka_port: int
    postgres_port: int
    kafka_security: str = "none"

    def ports(self) -> dict[str, int]:
        """Every port that this run listens on, by who listens."""
        ports = {service: self.port_base + index for index, service in enumerate(SERVICES)}
        ports |= {"postgres": self.postgres_port, "kafka": self.kafka_port}
        return ports | ({"kafka controller": self.kafka_port + 1} if self.broker == "kafka" else {})


class CannotRun(Exception):
    """Something about this machine or these options stands in the way; the text is for the person at the terminal."""


def parse(words: list[str], environment: Mapping[str, str]) -> Options:
    parser = argparse.ArgumentParser(prog="python -m deploy.local.run", description="Gongdan on one machine.")

    def option(flag: str, kind: type, default: str, text: str) -> None:
        variable = flag.strip("-").replace("-", "_").upper()
        parser.add_argument(flag, type=kind, default=environment.get(variable) or default, help=f"{text} ({variable})")

    option("--data", Path, ".data", "folder for everything that is kept")
    option("--broker", str, "embedded", "embedded (in memory) or kafka (Apache Kafka on Java)")
    option("--kafka-security", str, "none", "none, or scram: TLS, passwords and rights; with --broker kafka")
    option("--time-scale", float, "1", "seconds of business time in a real second")
    option("--port-base", int, "8001", "port of the first service; the others follow")
    option("--kafka-port", int, "19092", "port of the broker")
    option("--postgres-port", int, "15432", "port of PostgreSQL")
    given = parser.parse_args(words)
    if given.broker not in ("embedded", "kafka"):
        parser.error(f"--broker is embedded or kafka, not {given.broker}")
    if given.kafka_security not in ("none", "scram"):
        parser.error(f"--kafka-security is none or scram, not {given.kafka_security}")
    if given.kafka_security == "scram" and given.broker != "kafka":
        parser.error("--kafka-security scram needs --broker kafka: the broker in memory has no users")
    if not given.time_scale > 0:
        parser.error("--time-scale is a number above 0")
    return Options(
        given.data.resolve(),
        given.broker,
        given.time_scale,
        given.port_base,
        given.kafka_port,
        given.postgres_port,
        given.kafka_security,
    )


def claim_folder(data: Path) -> IO[str]:
    """Make the data folder and hold its lock until the file is closed. Raises `CannotRun` if another run has it."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = (data / "run.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise CannotRun(f"another run already uses {data}: stop it, or choose another folder with DATA=…") from None
    # PostgreSQL may run as another user and must be able to pass through; the secrets are protected file by file.
    data.chmod(0o711 if os.geteuid() == 0 else 0o700)
    return lock


def check_ports(ports: Mapping[str, int]) -> None:
    """Raises `CannotRun` naming the first port that is taken, and the option that moves it."""
    for name, port in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                probe.listen(1)
            except OSError:
                variable = {"postgres": "POSTGRES_PORT"}.get(name, "KAFKA_PORT" if "kafka" in name else "PORT_BASE")
                raise CannotRun(f"port {port} ({name}) is already in use: free it, or set {variable}") from None


async def all_of(*parts: Coroutine[Any, Any, None]) -> None:
    """Run side by side; the first failure cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


class Stack:
    """The running whole: starts it in order, keeps `run.json` true, stops it in reverse.

    With `doors` the parts find each other at other ports (behind proxies); a subclass may run the services as other
    `programs`.
    """

    def __init__(
        self, options: Options, secrets: Secrets, clock: BusinessClock, doors: Mapping[str, int] | None = None
    ) -> None:
        self._options = options
        self._secrets = secrets
        self._clock = clock
        secured = options.kafka_security == "scram"
        self.layout = Layout(options.data, options.ports(), PACK, secrets, clock, secured, doors or {})
        self._ready = False
        self.began = time.monotonic()
        self._logs = options.data / "logs"
        self._logs.mkdir(mode=0o700, exist_ok=True)
        self.supervisor = Supervisor(self._logs, self.say, lambda name, pid: self._write_run_file())

    def say(self, line: str) -> None:
        print(f"[{time.monotonic() - self.began:6.1f} s] {line}", flush=True)

    async def start(self) -> None:
        """Raises `StartFailed` when a part does not come up."""
        await all_of(self._start_database(), self._start_broker())
        await all_of(*(self.supervisor.start(program) for program in self.programs()))
        self._ready = True
        self._write_run_file()
        print(banner(self.run_file(), self._logs), flush=True)

    async def stop(self) -> None:
        """Services first, then the broker, then PostgreSQL, so that each can still finish its work with the next."""
        self._ready = False
        await self.supervisor.stop(program.name for program in self.programs())
        await self.supervisor.stop(("kafka",))
        await self.supervisor.stop(("postgres",))
        (self._options.data / "run.json").unlink(missing_ok=True)

    def programs(self) -> list[Program]:
        """The programs of the services."""
        return service_programs(self.layout)

    async def server(self) -> postgres.Postgres:
        folder, port = self.layout.data / "postgres", self.layout.ports["postgres"]
        return await asyncio.to_thread(postgres.prepare, folder, port, self._secrets.postgres_password)

    async def _start_database(self) -> None:
        server = await self.server()
        if await asyncio.to_thread(server.initialise):
            self.say("postgres: data folder made")
        await self.supervisor.start(server.program())
        await server.ensure_databases(self._secrets.database_passwords)
        await all_of(*(self.supervisor.run_once(program) for program in migrations(self.layout)))
        self.say("databases migrated")

    async def broker(self) -> Program:
        layout = self.layout
        if self._options.broker == "embedded":
            return embedded_broker(layout)
        data, port, advertised = layout.kafka_data, layout.ports["kafka"], layout.door("kafka")
        self.say(f"kafka: Apache Kafka {kafka.version()} (the first time its jars are fetched)")
        password = self._secrets.kafka_passwords[access.ADMIN] if layout.secured else None
        return await asyncio.to_thread(kafka.prepare, data, port, PROJECT / ".cache", password, advertised)

    async def _start_broker(self) -> None:
        layout = self.layout
        await self.supervisor.start(await self.broker())
        if self._options.broker == "embedded":
            return
        if layout.secured:
            try:
                done = await access.apply(layout.broker(access.ADMIN), BRANCHES, self._secrets.kafka_passwords)
            except (KafkaError, OSError, Refused) as error:
                raise StartFailed(f"Kafka's users and rights could not be set: {error}") from None
            self.say(f"kafka: {done}")
        await self.supervisor.run_once(topic_program(layout))

    def run_file(self) -> dict[str, object]:
        """The content of `run.json`."""
        options, layout = self._options, self.layout
        branch_keys = self._secrets.branch_keys
        keys = {role.value: key for role, key in self._secrets.keys.items()}
        return {
            "services": {name: {"url": layout.url(name), "pid": self.supervisor.pid(name)} for name in SERVICES},
            "kafka": {"bootstrap_servers": layout.bootstrap, "kind": options.broker, **self._kafka_access()},
            "keys": {**keys, "branch": branch_keys.get("jinan") or next(iter(branch_keys.values()))},
            "branch_keys": branch_keys,
            "databases": {name: layout.database_url(name) for name in SERVICES},
            "time_scale": self._clock.scale,
            "time_origin": self._clock.origin.isoformat(),
            "data": str(options.data),
        }

    def _kafka_access(self) -> dict[str, object]:
        """How to be somebody at the broker, for `run.json`."""
        if not self.layout.secured:
            return {"security": "none", "reply_keys": {}}
        keys = {branch: access.reply_keys(branch, self._secrets.reply_key)[0] for branch in self._secrets.branch_keys}
        return {
            "security": "scram",
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": MECHANISM,
            "ca_file": str(self.layout.authority),
            "passwords": self._secrets.kafka_passwords,
            "reply_keys": keys,
        }

    def _write_run_file(self) -> None:
        if self._ready:
            write_private(self._options.data / "run.json", self.run_file())


async def run(options: Options) -> int:
    """Run until a signal comes; returns the exit code."""
    secrets = load_secrets(options.data, BRANCHES)
    clock = load_clock(options.data, options.time_scale, datetime.now(UTC))
    stack = Stack(options, secrets, clock)
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            stack.say("killing everything")
            stack.supervisor.kill_all()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    starting = asyncio.create_task(stack.start())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await stopping
        return 0
    except StartFailed as failure:
        print(f"\n{failure}", file=sys.stderr)
        return 1
    finally:
        stack.say("stopping")
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)
        await stack.stop()
        stack.say("stopped")


def main() -> None:
    options = parse(sys.argv[1:], os.environ)
    try:
        with claim_folder(options.data):
            (options.data / "run.json").unlink(missing_ok=True)
            asyncio.run(postgres.clear_leftovers(options.data / "postgres"))
            check_ports(options.ports())
            code = asyncio.run(run(options))
    except (CannotRun, ClockRefused) as refusal:
        sys.exit(f"cannot run: {refusal}")
    sys.exit(code)


if __name__ == "__main__":
    main()
