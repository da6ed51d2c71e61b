"""The faults themselves: each method carries out one kind of step of the plan on the running stack.

A fault undoes itself at its end, also when it is cancelled. Faults on one program wait for each other.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from aiokafka.errors import KafkaError

from deploy.local.postgres import database_name
from tests.faults.proxy import CUTS, Spell
from tests.faults.records import Log
from tests.faults.schedule import Step
from tests.faults.stack import APART, FaultStack, roles_of

DATABASE_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
FILL_SECONDS = 0.2
BALLAST_BLOCK = 8 * 1024 * 1024
AGAIN_SECONDS = 2.0
TRIES = 8
LOOK_SECONDS = 0.05
PATIENCE_SECONDS = 60.0
SLOW_COMMIT_MICROSECONDS = 100_000


class CannotDo(Exception):
    """This machine does not allow this fault."""


@dataclass
class Done:
    """One step as it was carried out, in seconds from the beginning of the plan. `note` says more, or why not."""

    step: Step
    began: float
    ended: float = 0.0
    note: str = ""
    skipped: bool = False
    allowed: bool = True


@dataclass
class Outage:
    """A time, by the wall clock, in which the front line's way was cut on purpose."""

    began: float
    ended: float
    why: str


@dataclass
class Faults:
    """Carries out a plan. `done` and `outages` are what the report is made of."""

    stack: FaultStack
    log: Log
    chance: random.Random
    done: list[Done] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    _locks: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    async def carry_out(self, steps: list[Step], began: float) -> None:
        """All steps, each at its time after `began` (monotonic); returns when the last has ended."""
        async with asyncio.TaskGroup() as tasks:
            for step in steps:
                await asyncio.sleep(max(0.0, began + step.at - time.monotonic()))
                tasks.create_task(self._one(step, began))

    async def _one(self, step: Step, began: float) -> None:
        async with self._locks[step.target]:
            record = Done(step, round(time.monotonic() - began, 2))
            self.done.append(record)
            for _ in range(TRIES):
                try:
                    record.note, record.skipped = await KINDS[step.kind](self, step), False
                    break
                except CannotDo as refusal:
                    record.note, record.allowed, record.skipped = f"not done: {refusal}", False, True
                    break
                except (*DATABASE_ERRORS, KafkaError) as error:
                    # Another fault was in the way of this one.
                    record.note, record.skipped = f"not done: {type(error).__name__}: {error}", True
                    await asyncio.sleep(AGAIN_SECONDS)
            record.ended = round(time.monotonic() - began, 2)
            self.stack.say(f"fault: {step.kind} {step.target} {step.detail or ''} {record.note}")

    # ---- processes ---------------------------------------------------------------------------------------------------

    async def kill(self, step: Step) -> str:
        pid = await self._pid(step.target)
        os.kill(pid, signal.SIGKILL)
        for role in roles_of(step.target) if step.target in APART else [step.target]:
            self.kills[role] += 1
        return f"pid {pid}"

    async def freeze(self, step: Step) -> str:
        """A process that stands still beyond its leases and sessions, and then goes on as if nothing had been."""
        pid = await self._pid(step.target)
        os.kill(pid, signal.SIGSTOP)
        try:
            with self._outage("intake is frozen", step.target in ("intake", "intake-second")):
                await asyncio.sleep(step.seconds)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return f"pid {pid} for {step.seconds:.1f} s"

    async def broker_restart(self, step: Step) -> str:
        """Stopped in good order, away for a while, started again: the embedded one comes back empty."""
        program = await self.stack.broker()
        await self.stack.supervisor.stop(("kafka",))
        await asyncio.sleep(step.seconds)
        await self.stack.supervisor.start(program)
        return f"away for {step.seconds:.1f} s"

    async def database_restart(self, step: Step) -> str:
        """A fast shutdown; the runner starts it again."""
        os.kill(await self._pid("postgres"), signal.SIGINT)
        return ""

    async def _pid(self, program: str) -> int:
        """The process id, as soon as the runner has it up again."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                if (pid := self.stack.supervisor.pid(program)) is not None:
                    return pid
                await asyncio.sleep(LOOK_SECONDS)

    # ---- clocks and ways ---------------------------------------------------------------------------------------------

    async def clock(self, step: Step) -> str:
        """The wall clock of a process jumps, and later jumps back."""
        self.stack.clocks.shift(step.target, step.detail)
        try:
            await asyncio.sleep(step.seconds)
        finally:
            self.stack.clocks.shift(step.target, 0)
        return f"{step.detail:+.0f} s for {step.seconds:.1f} s"

    async def network(self, step: Step) -> str:
        proxy = self.stack.proxies[step.target]
        proxy.cast(Spell(step.detail))
        try:
            with self._outage(f"{step.detail} before {step.target}", step.target in ("postgres", "intake")):
                await asyncio.sleep(step.seconds)
        finally:
            proxy.lift()
        return f"for {step.seconds:.1f} s" + (", nothing passes" if step.detail in CUTS else "")

    async def slow_clients(self, step: Step) -> str:
        """Clients that begin a request and never end it: half a head, half a body, or not a word."""
        port = self.stack.layout.door(step.target)
        beginnings = (
            b"POST /v1/tickets HTTP/1.1\r\nHost: x\r\nX-Slow: ",
            b'POST /v1/tickets HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{"channel',
            b"",
        )
        opened: list[asyncio.StreamWriter] = []
        try:
            for number in range(step.size):
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    opened.append(writer)
                    writer.write(beginnings[number % len(beginnings)])
            await asyncio.sleep(step.seconds)
        finally:
            for writer in opened:
                writer.close()
        return f"{len(opened)} connections for {step.seconds:.1f} s"

    # ---- database ----------------------------------------------------------------------------------------------------

    async def sessions(self, step: Step) -> str:
        """Sessions of the services ended by the server, several at a time."""
        async with self._superuser() as connection:
            ended = await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity"
                " WHERE usename LIKE 'gongdan\\_%' ORDER BY random() LIMIT $1) AS chosen",
                step.size,
            )
        return f"{ended} sessions"

    async def slow_disk(self, step: Step) -> str:
        """Every commit waits 100 ms for its disk."""
        settings = {"commit_delay": SLOW_COMMIT_MICROSECONDS, "commit_siblings": 0}
        async with self._superuser() as connection:
            for name, value in settings.items():
                await connection.execute(f"ALTER SYSTEM SET {name} = {value}")
            await connection.execute("SELECT pg_reload_conf()")
        try:
            await asyncio.sleep(step.seconds)
        finally:
            await self._persist(["ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()"])
        return f"{SLOW_COMMIT_MICROSECONDS // 1000} ms a commit for {step.seconds:.1f} s"

    async def disk_full(self, step: Step) -> str:
        """Not a byte is free where PostgreSQL writes; what it frees meanwhile is taken at once."""
        if not self.stack.small_disk:
            raise CannotDo("mounting a small disk needs root")
        ballast = self.stack.disk / "ballast"
        until = time.monotonic() + step.seconds
        try:
            with self._outage("the disk is full", True):
                while time.monotonic() < until:
                    await asyncio.to_thread(_fill, ballast)
                    await asyncio.sleep(FILL_SECONDS)
        finally:
            size = ballast.stat().st_size
            ballast.unlink()
        return f"{size // 2**20} MB of ballast for {step.seconds:.1f} s"

    async def long_transaction(self, step: Step) -> str:
        """A forgotten report: its snapshot keeps every dead row alive."""
        async with self._superuser(database_name(step.target)) as connection:
            await connection.execute("SET idle_in_transaction_session_timeout = 0")
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            await connection.execute("SELECT count(*) FROM outbox")
            await asyncio.sleep(step.seconds)
        return f"held for {step.seconds:.1f} s"

    async def replay(self, step: Step) -> str:
        """What an operator does who lost a topic: everything is published again."""
        service = step.target.removeprefix("gongdan.")
        async with self._superuser(database_name(service)) as connection:
            answer = await connection.execute(
                "UPDATE outbox SET published_at = NULL WHERE topic = $1 AND published_at IS NOT NULL", step.target
            )
        return f"{answer.removeprefix('UPDATE ')} events"

    # ---- log ---------------------------------------------------------------------------------------------------------

    async def duplicates(self, step: Step) -> str:
        return f"{await self.log.send_all_again()} records"

    async def poison(self, step: Step) -> str:
        return f"{await self.log.send_poison()} records"

    async def reorder(self, step: Step) -> str:
        """While a relay sleeps, the later events of its tickets come before the earlier ones."""
        pid = await self._pid(step.target)
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(step.seconds)
            sent = await self.log.send_later_ones_first(step.target.removesuffix("-relay"))
            await asyncio.sleep(1)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return f"{sent} events before their turn"

    # ---- parts -------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _superuser(self, database: str = "postgres") -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.stack.dsn(database), timeout=5)
        try:
            yield connection
        finally:
            with suppress(*DATABASE_ERRORS):
                await connection.close(timeout=2)

    async def _persist(self, statements: list[str]) -> None:
        """Carry these out, however long PostgreSQL is away."""
        while True:
            with suppress(*DATABASE_ERRORS):
                async with self._superuser() as connection:
                    for statement in statements:
                        await connection.execute(statement)
                    return
            await asyncio.sleep(AGAIN_SECONDS)

    def _outage(self, why: str, counts: bool) -> "_Window":
        return _Window(self.outages if counts else [], why)


class _Window:
    """Notes an outage from entry to exit."""

    def __init__(self, outages: list[Outage], why: str) -> None:
        self._outages = outages
        self._why = why
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.time()

    def __exit__(self, *_: object) -> None:
        self._outages.append(Outage(self._began, time.time(), self._why))


def _fill(ballast: Path) -> None:
    """Take every free block."""
    size = BALLAST_BLOCK
    with ballast.open("ab") as file:
        while size >= 4096:
            try:
                os.posix_fallocate(file.fileno(), file.tell(), size)
                file.seek(0, os.SEEK_END)
            except OSError:
                size //= 2


KINDS: dict[str, Callable[[Faults, Step], Awaitable[str]]] = {
    "kill": Faults.kill,
    "freeze": Faults.freeze,
    "broker_kill": Faults.kill,
    "broker_restart": Faults.broker_restart,
    "database_kill": Faults.kill,
    "database_restart": Faults.database_restart,
    "sessions": Faults.sessions,
    "network": Faults.network,
    "disk_full": Faults.disk_full,
    "slow_disk": Faults.slow_disk,
    "clock": Faults.clock,
    "duplicates": Faults.duplicates,
    "reorder": Faults.reorder,
    "poison": Faults.poison,
    "replay": Faults.replay,
    "long_transaction": Faults.long_transaction,
    "slow_clients": Faults.slow_clients,
}
