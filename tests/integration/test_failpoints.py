"""Every gap between two durable steps, with a process that dies in it: once at its work, and once more while it
recovers. Afterwards everything given is there once, in order, and published.
"""

import ast
import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from deploy.local.state import load_secrets
from shared.contracts.topics import INCARNATION
from shared.http.keys import Role, generate_key, load_records, save_records
from tests.architecture.services import PROJECT
from tests.faults.background_works import ERASED, SEALED
from tests.faults.scenes import SCENES
from tests.faults.works import REFUSED, REGISTERED, REVIEWED, SWEPT, WITHDRAWN, Work, Works, records_of
from tests.support.parts import Broker, Databases, free_port, must_have_kafka, running_broker

DEATH_SECONDS = 45.0
NEWEST = max(path.stem for path in (PROJECT / "services/review/migrations/versions").glob("*.py"))
SETTLE_SECONDS = 60.0

# The gap, what has to be given so that it is reached, and whether it is reached again by more of the same.
GAPS: dict[str, tuple[Works, bool]] = {
    "outbox.written": (WITHDRAWN, True),
    "outbox.committed": (REGISTERED, True),
    "request.key_claimed": (WITHDRAWN, True),
    "relay.partitions_made": (REVIEWED, True),
    "relay.read": (REVIEWED, True),
    "relay.handed_over": (REVIEWED, True),
    "relay.acknowledged": (REVIEWED, True),
    "relay.mark_written": (REVIEWED, True),
    "relay.marked": (REVIEWED, True),
    "consumer.start_written": (REVIEWED, True),
    # Its position is stored by then; only another log would bring it here again.
    "consumer.started": (REVIEWED, False),
    "consumer.fetched": (REVIEWED, True),
    "consumer.effects_written": (REVIEWED, True),
    "consumer.committed": (REVIEWED, True),
    "consumer.next_record": (REFUSED, True),
    "consumer.burial_written": (REFUSED, True),
    "consumer.buried": (REFUSED, True),
    "sweep.fired": (SWEPT, True),
    "sweep.committed": (SWEPT, True),
    "seal.written": (SEALED, True),
    "seal.committed": (SEALED, True),
    "erasure.written": (ERASED, True),
    "erasure.committed": (ERASED, True),
}
# Gaps of programs that end by themselves; they have tests of their own below.
OTHERS = {"migration.statement_run", "topics.created", "state.file_written", "keys.file_written"}


def gaps_in_the_code() -> set[str]:
    found: set[str] = set()
    for package in ("shared", "services", "deploy"):
        for path in (PROJECT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reach":
                    argument = node.args[0]
                    if isinstance(argument, ast.Constant):
                        found.add(str(argument.value))
    return found


def test_every_gap_in_the_code_is_tried() -> None:
    assert gaps_in_the_code() == set(GAPS) | OTHERS | {gap for gap, _, _ in SCENES}


def sabotaged(gap: str | None, *words: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    kill = ["--kill-at", gap] if gap else []
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.sabotage", *kill, *words],
        cwd=PROJECT,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


async def ended(process: subprocess.Popen[bytes], seconds: float) -> int:
    return await asyncio.to_thread(process.wait, seconds)


@asynccontextmanager
async def running(gap: str | None, work: Work) -> AsyncIterator[subprocess.Popen[bytes]]:
    process = sabotaged(gap, f"services.{work.service}", environment=work.environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def dies(gap: str, work: Work) -> None:
    async with running(gap, work) as process:
        try:
            assert await ended(process, DEATH_SECONDS) == -signal.SIGKILL
        except subprocess.TimeoutExpired:
            pytest.fail(f"{gap} was not reached")


@pytest.mark.parametrize("gap", GAPS)
async def test_a_process_that_dies_in_a_gap_loses_nothing_and_doubles_nothing(
    databases: Databases, embedded: Broker, tmp_path: Path, gap: str
) -> None:
    works, again = GAPS[gap]
    async with works(databases, embedded, tmp_path, free_port()) as work:
        await work.give()
        await dies(gap, work)
        if again:
            await work.give()
            await dies(gap, work)
        await work.give()
        async with running(None, work) as process:
            async with asyncio.timeout(SETTLE_SECONDS):
                while not await work.settled():
                    assert process.poll() is None
                    await asyncio.sleep(0.1)
        await work.check()


async def test_a_migration_that_dies_leaves_nothing_half_done(databases: Databases, tmp_path: Path) -> None:
    url = await databases.empty()
    environment = of_review(url, tmp_path)
    # The 27th statement is the first of the third revision: the two before it are done by then.
    for gap, code, stands in (
        ("migration.statement_run:4", -9, None),
        ("migration.statement_run:12", -9, None),
        ("migration.statement_run:27", -9, "0002_operations"),
        (None, 0, NEWEST),
    ):
        process = sabotaged(gap, "services.review", "migrate", environment=environment)
        assert await ended(process, DEATH_SECONDS) == code
        assert await revision(url) == stands


async def test_migrations_that_start_at_once_run_one_after_the_other(databases: Databases, tmp_path: Path) -> None:
    url = await databases.empty()
    environment = of_review(url, tmp_path)
    processes = [sabotaged(None, "services.review", "migrate", environment=environment) for _ in range(3)]
    assert [await ended(process, DEATH_SECONDS) for process in processes] == [0, 0, 0]
    assert await revision(url) == NEWEST


def of_review(url: str, folder: Path) -> dict[str, str]:
    return {
        "REVIEW_DATABASE_URL": url,
        "REVIEW_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "REVIEW_KEYS_FILE": str(folder / "keys.json"),
    }


async def revision(url: str) -> str | None:
    """The last revision that a database stands at; none before the first."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
            return None
        found: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
        return found
    finally:
        await connection.close()


@pytest.mark.kafka
async def test_a_topic_creator_that_dies_before_it_names_the_log_names_it_the_next_time(tmp_path: Path) -> None:
    must_have_kafka()
    async with running_broker("kafka", tmp_path, topics=False) as broker:
        for gap, code in (("topics.created", -9), ("topics.created", -9), (None, 0)):
            process = sabotaged(gap, "deploy.local.topics", "--bootstrap", broker.bootstrap, environment={})
            assert await ended(process, DEATH_SECONDS) == code
        assert len(await records_of(broker.bootstrap, INCARNATION)) == 1


def test_a_key_command_that_dies_while_it_writes_keeps_the_keys_that_were_there(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    _, kept = generate_key(Role.ops, "kept")
    save_records(file, [kept])
    words = ("shared.http.keys", "add", "--role", "ops", "--name", "new", "--file", str(file))
    for gap, code in (("keys.file_written", -signal.SIGKILL), ("keys.file_written", -signal.SIGKILL), (None, 0)):
        assert load_records(file) == [kept]
        assert sabotaged(gap, *words, environment={}).wait(DEATH_SECONDS) == code
    assert [record.name for record in load_records(file)] == ["kept", "new"]


def test_a_runner_that_dies_while_it_writes_its_secrets_keeps_those_it_had(tmp_path: Path) -> None:
    kept = load_secrets(tmp_path, ["jinan"])
    program = (
        "import os, sys; from pathlib import Path; from shared import failpoints; from deploy.local.state import *;"
        "failpoints.arm('state.file_written', lambda: os.kill(os.getpid(), 9));"
        "load_secrets(Path(sys.argv[1]), ['jinan', 'qingdao'])"
    )
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=PROJECT).returncode == -signal.SIGKILL
    again = load_secrets(tmp_path, ["jinan", "qingdao"])
    grown = {"branch_keys", "kafka_passwords"}
    assert again.model_dump(exclude=grown) == kept.model_dump(exclude=grown)
    assert kept.branch_keys.items() <= again.branch_keys.items()
    assert kept.kafka_passwords.items() <= again.kafka_passwords.items()
