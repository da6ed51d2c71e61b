"""Keeps a set of programs running: starts them, notices deaths, restarts with backoff, stops them in order.

Programs are data (`Program`). Each runs in its own session, so that a Ctrl-C on the terminal reaches only the
supervisor, and is started through `launch.py`, so that none outlives it. Use from the main thread only: the kernel
ties the children to the thread that forked them.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 5.0
SETTLED_SECONDS = 10.0
DEATHS_BEFORE_FIRST_READY = 4
POLL_SECONDS = 0.05
LOG_LIMIT_BYTES = 20_000_000
LOG_TAIL_LINES = 40

LAUNCHER = Path(__file__).with_name("launch.py")
PROJECT = Path(__file__).parents[2]


class StartFailed(Exception):
    """A program did not become ready; the text says why and ends with its last lines of output."""


async def _at_once() -> bool:
    return True


@dataclass(frozen=True)
class Account:
    """How a program gives up root: a `--become` choice of `launch.py`, and the identity taken."""

    become: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Program:
    """One program to run. `ready` answers whether it serves; times are real seconds."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False, default_factory=dict)
    account: Account | None = None
    ready: Callable[[], Awaitable[bool]] = _at_once
    ready_seconds: float = 60.0
    before_start: Callable[[], Awaitable[None]] | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 8.0
    orphan_signal: signal.Signals = signal.SIGKILL


def launch_command(program: Program, reach: Path | None = None) -> list[str]:
    """The command line that starts the program through `launch.py`; `reach` is a folder it must be able to list."""
    words = [sys.executable, "-I", "-S", str(LAUNCHER), "--parent", str(os.getpid())]
    words += ["--orphan-signal", str(int(program.orphan_signal))]
    if program.account:
        account = program.account
        words += ["--become", account.become, "--uid", str(account.uid), "--gid", str(account.gid)]
    if reach:
        words += ["--reach", str(reach)]
    return [*words, "--", *program.command]


async def spawn(program: Program, output: IO[bytes] | int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *launch_command(program),
        cwd=PROJECT,
        env=dict(program.environment),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"signal {signal.Signals(-code).name}"


def kill_session(pid: int) -> None:
    """Kill a program and what is left of its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


async def port_open(host: str, port: int) -> bool:
    """Whether something listens there."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


class _Watched:
    """A program and what became of it so far."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.process: asyncio.subprocess.Process | None = None
        self.task: asyncio.Task[None] | None = None
        self.stopping = False
        self.deaths = 0
        self.last_exit = ""


class Supervisor:
    """`say` receives the lines for the terminal; `on_change` is called with (name, process id) after each start."""

    def __init__(
        self,
        log_folder: Path,
        say: Callable[[str], None],
        on_change: Callable[[str, int], None] = lambda name, pid: None,
    ) -> None:
        self._logs = log_folder
        self._say = say
        self._on_change = on_change
        self._watched: dict[str, _Watched] = {}

    def pid(self, name: str) -> int | None:
        """The process id of a running program, None while it is down."""
        process = self._watched[name].process
        return process.pid if process and process.returncode is None else None

    def log_path(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    async def start(self, program: Program) -> None:
        """Start a program and wait until it is ready; from then on it is kept running.

        Raises:
            StartFailed: it died again and again, or was not ready in time.
        """
        watched = _Watched(program)
        self._watched[program.name] = watched
        watched.task = asyncio.create_task(self._keep_running(watched), name=f"keep {program.name}")
        began = time.monotonic()
        while not await self._is_ready(watched):
            if watched.deaths >= DEATHS_BEFORE_FIRST_READY:
                raise StartFailed(self._failure(program.name, f"ended {watched.deaths} times ({watched.last_exit})"))
            if time.monotonic() - began > program.ready_seconds:
                raise StartFailed(self._failure(program.name, f"was not ready after {program.ready_seconds:.0f} s"))
            if watched.task.done():
                await watched.task
            await asyncio.sleep(POLL_SECONDS)
        self._say(f"{program.name}: ready after {time.monotonic() - began:.1f} s (pid {self.pid(program.name)})")

    async def run_once(self, program: Program) -> None:
        """Run a program to its end. Raises `StartFailed` if it does not exit with 0 within `ready_seconds`."""
        with self._open_log(program.name) as log:
            process = await spawn(program, log)
        try:
            async with asyncio.timeout(program.ready_seconds):
                code = await process.wait()
        except TimeoutError:
            raise StartFailed(
                self._failure(program.name, f"did not end within {program.ready_seconds:.0f} s")
            ) from None
        finally:
            if process.returncode is None:
                kill_session(process.pid)
                await process.wait()
        if code != 0:
            raise StartFailed(self._failure(program.name, f"failed ({describe_exit(code)})"))

    async def stop(self, names: Iterable[str] | None = None) -> None:
        """Stop these programs (default: all) side by side, each within its own bound; waits until they are gone."""
        chosen = list(self._watched) if names is None else [name for name in names if name in self._watched]
        await asyncio.gather(*(self._stop(self._watched.pop(name)) for name in chosen))

    def kill_all(self) -> None:
        """Kill everything now: the answer to a second Ctrl-C."""
        for watched in self._watched.values():
            watched.stopping = True
            if watched.process and watched.process.returncode is None:
                kill_session(watched.process.pid)

    async def _is_ready(self, watched: _Watched) -> bool:
        running = watched.process is not None and watched.process.returncode is None
        return running and await watched.program.ready()

    async def _keep_running(self, watched: _Watched) -> None:
        name, backoff = watched.program.name, FIRST_BACKOFF_SECONDS
        while not watched.stopping:
            born = time.monotonic()
            try:
                outcome = await self._live_once(watched)
            except (OSError, RuntimeError) as error:
                outcome = f"could not be started ({error})"
            if watched.stopping:
                return
            watched.deaths += 1
            watched.last_exit = outcome
            if time.monotonic() - born > SETTLED_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            self._say(f"{name}: DIED, {outcome}; starting it again in {backoff:.1f} s, see {self.log_path(name)}")
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)

    async def _live_once(self, watched: _Watched) -> str:
        """Start the program and wait for its end; returns how it ended."""
        program = watched.program
        if program.before_start:
            await program.before_start()
        with self._open_log(program.name) as log:
            process = await spawn(program, log)
        watched.process = process
        self._on_change(program.name, process.pid)
        if watched.deaths:
            self._say(f"{program.name}: restarted (pid {process.pid})")
        code = await process.wait()
        kill_session(process.pid)
        return describe_exit(code)

    async def _stop(self, watched: _Watched) -> None:
        watched.stopping = True
        process, program = watched.process, watched.program
        if process and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(program.stop_signal)
            try:
                async with asyncio.timeout(program.stop_seconds):
                    await process.wait()
            except TimeoutError:
                self._say(f"{program.name}: still running after {program.stop_seconds:.0f} s, killed")
            finally:
                if process.returncode is None:
                    kill_session(process.pid)
                    await process.wait()
        if watched.task:
            watched.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watched.task

    def _open_log(self, name: str) -> IO[bytes]:
        path = self.log_path(name)
        if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
        return path.open("ab")

    def _failure(self, name: str, what: str) -> str:
        path = self.log_path(name)
        lines = (
            path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:] if path.exists() else []
        )
        return "\n".join([f"{name} {what}. The end of {path}:", *(f"    {line}" for line in lines)])
