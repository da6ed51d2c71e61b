"""The parts of the one-machine runner, each for real: supervisor, PostgreSQL, both brokers, and what is kept."""

import asyncio
import inspect
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient

from deploy.local import kafka, postgres, state, topics
from deploy.local.run import CannotRun, check_ports, parse
from deploy.local.supervisor import PROJECT, Account, Program, StartFailed, Supervisor, port_open
from shared.contracts.topics import INCARNATION, INTAKE, all_topics, branch_topic
from shared.http.key_store import KeyStore
from shared.http.keys import Role, load_records
from shared.messaging.broker import BrokerAddress
from shared.policy.loader import load_pack
from tests.support.parts import free_port

BRANCHES = ["jinan", "qingdao"]
NOON = datetime(2026, 11, 22, 4, 0, tzinfo=UTC)
as_root = pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="giving up root needs root")


@pytest.fixture(autouse=True)
def quiet_clients() -> Iterator[None]:
    """aiokafka reports every refused connection as an error; here brokers are killed on purpose."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("aiokafka").setLevel(logging.NOTSET)


@pytest.fixture
def terminal() -> list[str]:
    """The lines that the supervisor says."""
    return []


@pytest.fixture
async def supervisor(tmp_path: Path, terminal: list[str]) -> AsyncIterator[Supervisor]:
    running = Supervisor(tmp_path, terminal.append)
    yield running
    await running.stop()


def python(name: str, code: str) -> Program:
    return Program(name, (sys.executable, "-c", code), environment=dict(os.environ))


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for a condition (a plain or async function) to become true."""
    async with asyncio.timeout(seconds):
        while True:
            answer = condition()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(0.05)


# --- supervisor ---------------------------------------------------------------------------------------------------


async def test_a_program_that_dies_is_started_again(supervisor: Supervisor, terminal: list[str]) -> None:
    await supervisor.start(python("sleeper", "import time; time.sleep(60)"))
    first = supervisor.pid("sleeper")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: supervisor.pid("sleeper") not in (None, first))
    assert any("sleeper: DIED, signal SIGKILL" in line for line in terminal)
    assert any("sleeper: restarted" in line for line in terminal)


async def test_a_program_that_cannot_start_is_given_up_with_its_output(supervisor: Supervisor) -> None:
    async def never() -> bool:
        return False

    with pytest.raises(StartFailed, match=r"(?s)broken ended 4 times \(exit code 3\).*no luck"):
        await supervisor.start(replace(python("broken", "print('no luck'); raise SystemExit(3)"), ready=never))


async def test_a_program_deaf_to_sigterm_is_killed_within_its_bound(supervisor: Supervisor, tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys, time, pathlib; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid)); time.sleep(60)"
    )
    await supervisor.start(replace(python("deaf", code), stop_seconds=0.5))
    await until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    pid, child = supervisor.pid("deaf"), int((tmp_path / "child").read_text())
    assert pid is not None
    await supervisor.stop()
    assert not psutil.pid_exists(pid)
    await until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's death signal is Linux's")
async def test_nothing_outlives_a_runner_killed_with_minus_nine(tmp_path: Path) -> None:
    code = f"""
import asyncio, os, pathlib, sys
from deploy.local.supervisor import Program, Supervisor
async def main():
    supervisor = Supervisor(pathlib.Path({str(tmp_path)!r}), lambda line: None)
    await supervisor.start(Program("sleeper", (sys.executable, "-c", "import time; time.sleep(60)"), dict(os.environ)))
    print(supervisor.pid("sleeper"), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    runner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=PROJECT, stdout=subprocess.PIPE, start_new_session=True
    )
    assert runner.stdout
    child = int(await runner.stdout.readline())
    await asyncio.sleep(0.2)
    assert psutil.pid_exists(child)
    runner.kill()
    await runner.wait()
    await until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


async def start_postgres(supervisor: Supervisor, folder: Path) -> postgres.Postgres:
    server = postgres.prepare(folder, free_port(), "not-a-secret")
    server.initialise()
    await supervisor.start(server.program())
    return server


async def test_each_service_role_reaches_its_own_database_only(supervisor: Supervisor, tmp_path: Path) -> None:
    server = await start_postgres(supervisor, tmp_path / "postgres")
    passwords = {"intake": "it's quoted", "review": "other"}
    await server.ensure_databases(passwords)
    await server.ensure_databases(passwords)
    own = await asyncpg.connect(
        host="127.0.0.1", port=server.port, user="gongdan_intake", password="it's quoted", database="gongdan_intake"
    )
    await own.execute("create table notes (text text)")
    shown = {name: await own.fetchval(f"show {name}") for name in ("fsync", "synchronous_commit", "server_encoding")}
    assert shown == {"fsync": "on", "synchronous_commit": "on", "server_encoding": "UTF8"}
    await own.close()
    for database in ("gongdan_review", "postgres"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(
                host="127.0.0.1", port=server.port, user="gongdan_intake", password="it's quoted", database=database
            )
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.dsn("gongdan_review", "wrong", "gongdan_review"))
    assert (tmp_path / "postgres").stat().st_mode & 0o777 == 0o700


async def test_committed_rows_survive_kill_minus_nine(supervisor: Supervisor, tmp_path: Path) -> None:
    server = await start_postgres(supervisor, tmp_path / "postgres")
    dsn = server.dsn(postgres.SUPERUSER, server.password, "postgres")
    connection = await asyncpg.connect(dsn)
    await connection.execute("create table notes as select 42 as number")
    pid = supervisor.pid("postgres")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: supervisor.pid("postgres") not in (None, pid))
    await until(server.answers, seconds=60)
    connection.terminate()
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("select number from notes") == 42
    await connection.close()


@pytest.mark.skipif(sys.platform != "linux", reason="leftovers are found through /proc")
async def test_a_lock_file_naming_a_strangers_process_does_not_block(supervisor: Supervisor, tmp_path: Path) -> None:
    server = await start_postgres(supervisor, tmp_path / "postgres")
    await supervisor.stop()
    lock = server.folder / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n{server.folder}\n1795331300\n{server.port}\n\n127.0.0.1\n  1 2\nready\n")
    shutil.chown(lock, server.folder.stat().st_uid)
    await supervisor.start(server.program())
    assert await server.answers()


def effective_capabilities(pid: int) -> int:
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["CapEff"], 16)


@as_root
@pytest.mark.parametrize("become", ["dac_read_search", "dac_override", "namespace"])
async def test_root_can_run_it_below_a_folder_that_only_root_may_enter(
    supervisor: Supervisor, tmp_path: Path, become: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(postgres, "BECOME_IN_ORDER", (become,))
    server = await start_postgres(supervisor, closed / "postgres")
    assert isinstance(server.account, Account)
    pid = supervisor.pid("postgres")
    assert pid is not None
    process = psutil.Process(pid)
    capabilities = {"dac_override": 1 << 1, "dac_read_search": 1 << 2, "namespace": 0}
    assert effective_capabilities(pid) == capabilities[become]
    assert (process.uids().effective == 0) == (become == "namespace")


# --- the embedded broker ------------------------------------------------------------------------------------------


def broker_program(port: int) -> Program:
    code = f"""
import signal
from deploy.local.broker import start_broker
from shared.contracts.topics import all_topics
start_broker({port}, {{topic.name: topic.partitions for topic in all_topics({BRANCHES!r})}})
signal.signal(signal.SIGTERM, signal.SIG_DFL)
while True: signal.pause()
"""
    return replace(python("kafka", code), ready=lambda: port_open("127.0.0.1", port))


async def consume(bootstrap: str, topic: str, partitions: int, wanted: int) -> list[bytes]:
    """The values of a topic from its beginning, without a group, until there are enough."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", fetch_max_wait_ms=50)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
        values: list[bytes] = []
        async with asyncio.timeout(20):
            while len(values) < wanted:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    values += [record.value for record in records]
        return values
    finally:
        await consumer.stop()


async def produce(bootstrap: str, topic: str, values: list[bytes], partitions: int) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", request_timeout_ms=5_000)
    await producer.start()
    try:
        for index, value in enumerate(values):
            await producer.send_and_wait(topic, value, partition=index % partitions)
    finally:
        await producer.stop()


async def test_embedded_broker_has_exactly_the_topics_and_serves_many_clients(supervisor: Supervisor) -> None:
    port = free_port()
    bootstrap = f"127.0.0.1:{port}"
    await supervisor.start(broker_program(port))
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    cluster = await client.fetch_all_metadata()
    shape = {name: len(cluster.partitions_for_topic(name)) for name in cluster.topics()}
    await client.close()
    assert shape == {topic.name: topic.partitions for topic in all_topics(BRANCHES)}

    values = [f"record {number}".encode() for number in range(80)]
    half = len(values) // 2
    await asyncio.gather(produce(bootstrap, INTAKE, values[:half], 8), produce(bootstrap, INTAKE, values[half:], 8))
    answers = await asyncio.gather(*(consume(bootstrap, INTAKE, 8, len(values)) for _ in range(4)))
    assert [sorted(answer) for answer in answers] == [sorted(values)] * 4


async def test_embedded_broker_comes_back_as_another_log_and_clients_find_it(supervisor: Supervisor) -> None:
    port = free_port()
    bootstrap = f"127.0.0.1:{port}"
    await supervisor.start(broker_program(port))
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=False)
    await producer.start()
    try:
        await producer.send_and_wait(branch_topic("jinan"), b"before", partition=0)
        first = await consume(bootstrap, INCARNATION, 1, 1)
        pid = supervisor.pid("kafka")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: supervisor.pid("kafka") not in (None, pid))
        async with asyncio.timeout(20):
            await producer.send_and_wait(branch_topic("jinan"), b"after", partition=0)
    finally:
        await producer.stop()
    assert await consume(bootstrap, branch_topic("jinan"), 1, 1) == [b"after"]
    second = await consume(bootstrap, INCARNATION, 1, 1)
    assert len(first) == len(second) == 1
    assert first != second


# --- Apache Kafka -------------------------------------------------------------------------------------------------


@pytest.mark.kafka
@pytest.mark.skipif(not (shutil.which("java") and shutil.which("mvn")), reason="needs Java and Maven")
async def test_apache_kafka_keeps_topics_records_and_identity(supervisor: Supervisor, tmp_path: Path) -> None:
    port = free_port()
    bootstrap = f"127.0.0.1:{port}"
    program = kafka.prepare(tmp_path / "kafka", port, PROJECT / ".cache")
    await supervisor.start(program)
    wanted = all_topics(BRANCHES)
    assert sorted(await topics.create_missing(BrokerAddress(bootstrap), wanted, replication=1)) == sorted(
        t.name for t in wanted
    )
    assert await topics.create_missing(BrokerAddress(bootstrap), wanted, replication=1) == []
    assert [await topics.ensure_incarnation(BrokerAddress(bootstrap)) for _ in range(2)] == [True, False]
    await produce(bootstrap, INTAKE, [b"kept"], 8)
    identity = await consume(bootstrap, INCARNATION, 1, 1)

    changed = [wanted[0].model_copy(update={"partitions": 9})]
    with pytest.raises(topics.TopicsNotReady, match="has 8 partitions instead of 9"):
        await topics.create_missing(BrokerAddress(bootstrap), changed, replication=1)

    await supervisor.stop()
    await supervisor.start(kafka.prepare(tmp_path / "kafka", port, PROJECT / ".cache"))
    assert await consume(bootstrap, INTAKE, 8, 1) == [b"kept"]
    assert await consume(bootstrap, INCARNATION, 1, 1) == identity


def test_a_changed_jar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kafka-clients-0.jar").write_bytes(b"something else")
    with pytest.raises(StartFailed, match=r"kafka-clients-0\.jar"):
        kafka.verify(tmp_path)


def test_retention_is_given_to_kafka_in_milliseconds() -> None:
    by_name = {topic.name: topics.retention_ms(topic) for topic in all_topics(["jinan"])}
    assert by_name[INTAKE] == 7 * 24 * 3_600_000
    assert by_name[INCARNATION] == -1


# --- what is kept -------------------------------------------------------------------------------------------------


def test_keys_stay_the_same_and_a_new_branch_gets_one(tmp_path: Path) -> None:
    first = state.load_secrets(tmp_path, ["jinan"])
    second = state.load_secrets(tmp_path, ["jinan", "qingdao"])
    assert second.keys == first.keys
    assert second.data_key == first.data_key
    assert second.branch_keys["jinan"] == first.branch_keys["jinan"]
    store = KeyStore(tmp_path / "keys.json")
    found = store.find(second.branch_keys["qingdao"])
    assert (found.role, found.scope) == (Role.branch, "qingdao")
    assert {store.find(key).role for key in second.keys.values()} == set(Role) - {Role.branch}
    assert len(load_records(tmp_path / "keys.json")) == len(Role) + 1
    for name in ("secrets.json", "keys.json"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_every_branch_of_the_pack_gets_a_key_and_a_topic(tmp_path: Path) -> None:
    branches = [branch.id for branch in load_pack("mobile_operator").branches]
    assert set(state.load_secrets(tmp_path, branches).branch_keys) == set(branches)
    assert "jinan" in branches


@pytest.mark.parametrize(("old", "new"), [(1, 60), (60, 3600), (3600, 60), (60, 0.5), (0.5, 1), (0.5, 2)])
def test_business_time_goes_on_from_where_it_was_when_the_scale_changes(old: float, new: float) -> None:
    before = state.BusinessClock(scale=old, origin=NOON)
    later = NOON + timedelta(hours=5)
    after = state.continue_clock(before, new, later)
    reached, expected = after.business(later), before.business(later)
    if new == 1:
        assert reached == later >= expected
    else:
        assert abs(reached - expected) < timedelta(milliseconds=1)


def test_same_scale_keeps_the_origin_and_real_time_cannot_be_had_back(tmp_path: Path) -> None:
    clock = state.load_clock(tmp_path, 60, NOON)
    assert state.load_clock(tmp_path, 60, NOON + timedelta(days=1)) == clock
    with pytest.raises(state.ClockRefused, match="TIME_SCALE=60"):
        state.load_clock(tmp_path, 1, NOON + timedelta(days=1))
    assert state.load_clock(tmp_path, 60, NOON + timedelta(days=1)) == clock


def test_a_port_in_use_is_named_with_the_option_that_moves_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CannotRun, match=rf"port {port} \(kafka\).*KAFKA_PORT"):
            check_ports({"kafka": port})


def test_options_come_from_the_environment_and_the_command_line_wins() -> None:
    options = parse(["--time-scale", "60"], {"PORT_BASE": "9001", "TIME_SCALE": "2", "DATA": ""})
    assert (options.port_base, options.time_scale, options.broker) == (9001, 60, "embedded")
    assert options.ports()["sla"] == 9004
