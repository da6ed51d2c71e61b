"""How the consumer gathers a batch from its client: nothing that the client has given is skipped when it fails."""

import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from shared.contracts.topics import BRANCH_REPLIES
from shared.messaging import consumer as module
from shared.messaging import merge
from shared.messaging.broker import BrokerAddress
from shared.messaging.consumer import Consumer
from shared.messaging.inbox import Position
from shared.messaging.pace import BESIDE, ENOUGH, ON_THE_WAY
from shared.messaging.reader import IDLE_FETCH_MS, Reader
from tests.support.messaging import Recorder

HERE, THERE = TopicPartition("gongdan.intake", 0), TopicPartition("gongdan.sla", 3)
FETCH_MS = 20


@dataclass
class Client:
    """Gives what it was given to give, in order and but of what is not paused; an error is raised. `ends`: how far the
    broker says that the logs go."""

    gives: list[Any]
    ends: dict[TopicPartition, int] = field(default_factory=dict)
    sought: dict[TopicPartition, int] = field(default_factory=dict)
    at: dict[TopicPartition, int] = field(default_factory=dict)
    held: set[TopicPartition] = field(default_factory=set)

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:
        given = self.gives.pop(0) if self.gives else {}
        if isinstance(given, Exception):
            raise given
        assert isinstance(given, dict)
        assert not given.keys() & self.held, "a paused partition is not fetched"
        for partition, raws in given.items():
            self.at[partition] = raws[-1].offset + 1
        return given

    def assignment(self) -> set[TopicPartition]:
        return {HERE, THERE}

    def highwater(self, partition: TopicPartition) -> int | None:
        return self.ends.get(partition)

    async def position(self, partition: TopicPartition) -> int:
        return self.at.get(partition, 0)

    def paused(self) -> set[TopicPartition]:
        return set(self.held)

    def pause(self, *partitions: TopicPartition) -> None:
        self.held |= set(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self.held -= set(partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.sought[partition] = offset


def raw(partition: TopicPartition, offset: int, moment: int = 0) -> Any:
    return SimpleNamespace(
        topic=partition.topic,
        partition=partition.partition,
        offset=offset,
        key=b"k",
        headers=(),
        value=b"",
        timestamp=moment,
    )


def reader_of(client: Client, monkeypatch: pytest.MonkeyPatch, *, rest_seconds: float) -> Consumer[Any]:
    nothing: Any = None
    consumer = Consumer(
        "review", Recorder(), nothing, nothing, nothing, BrokerAddress("x:1"), fetch_max_wait_ms=FETCH_MS
    )

    async def connected() -> Client:
        return client

    monkeypatch.setattr(consumer._reader, "connected", connected)
    consumer._reader.client = client
    consumer._positions = {HERE: Position(7, "log", None), THERE: Position(40, "log", None)}
    consumer._reading = {HERE, THERE}
    consumer._reader.seek(consumer._offsets())
    client.sought.clear()
    consumer._rest_until = time.monotonic() + rest_seconds
    return consumer


async def test_a_rested_reader_takes_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client([{HERE: [raw(HERE, 7)]}, {HERE: [raw(HERE, 8)]}])
    records = await reader_of(client, monkeypatch, rest_seconds=-1)._gathered()
    assert [record.offset for record in records] == [7]


async def test_one_that_worked_just_now_rests_and_takes_what_came_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its client holds then was fetched before the rest."""
    client = Client([{HERE: [raw(HERE, 7)]}, {THERE: [raw(THERE, 40)], HERE: [raw(HERE, 8)]}, {HERE: [raw(HERE, 9)]}])
    began = time.monotonic()
    records = await reader_of(client, monkeypatch, rest_seconds=0.1)._gathered()
    assert time.monotonic() - began >= 0.1
    assert [(record.topic, record.offset) for record in records] == [(HERE[0], 7), (THERE[0], 40), (HERE[0], 8)]
    assert client.sought == {}


async def test_no_batch_is_larger_than_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 3)
    client = Client([{HERE: [raw(HERE, 7)]}, {HERE: [raw(HERE, 8), raw(HERE, 9), raw(HERE, 10)]}])
    consumer = reader_of(client, monkeypatch, rest_seconds=0.1)
    assert [record.offset for record in await consumer._gathered()] == [7, 8, 9]
    assert [record.offset for record in await consumer._gathered()] == [10], "nothing of it is forgotten"


async def test_what_was_sent_earlier_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client([{THERE: [raw(THERE, 40, 900)], HERE: [raw(HERE, 7, 500), raw(HERE, 8, 950)]}])
    records = await reader_of(client, monkeypatch, rest_seconds=-1)._gathered()
    assert [record.timestamp_ms for record in records] == [500, 900, 950]


async def test_within_a_partition_the_order_of_the_log_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends to us may stamp a record with any time."""
    client = Client([{HERE: [raw(HERE, 7, 900), raw(HERE, 8, 100)], THERE: [raw(THERE, 40, 500)]}])
    records = await reader_of(client, monkeypatch, rest_seconds=-1)._gathered()
    assert [(record.topic, record.offset) for record in records] == [(THERE[0], 40), (HERE[0], 7), (HERE[0], 8)]


async def test_nobody_runs_ahead_of_a_partition_that_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded broker gives of each partition one record batch at a time."""
    ends = {HERE: 10, THERE: 42}
    first = {HERE: [raw(HERE, 7, 100)], THERE: [raw(THERE, 40, 500)]}
    client = Client([first, {HERE: [raw(HERE, 8, 300), raw(HERE, 9, 600)]}, {THERE: [raw(THERE, 41, 700)]}], ends)
    consumer = reader_of(client, monkeypatch, rest_seconds=0.05)
    records = await consumer._gathered() + await consumer._gathered()
    assert [record.timestamp_ms for record in records] == [100, 300, 500, 600, 700]
    assert client.held == set()


async def test_one_that_is_behind_and_gives_nothing_is_waited_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(merge, "HOLD_SECONDS", 0.05)
    client = Client([{HERE: [raw(HERE, 7, 100)], THERE: [raw(THERE, 40, 500)]}], {HERE: 10, THERE: 42})
    consumer = reader_of(client, monkeypatch, rest_seconds=-1)
    records = await consumer._gathered() + await consumer._gathered()
    assert [record.timestamp_ms for record in records] == [100, 500]
    assert await consumer._gathered() == []
    assert client.held == set(), "nothing is held, so nobody has to wait"


async def test_once_waited_for_in_vain_all_that_is_held_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one batch after each wait: a leader that is away would slow all others down."""
    monkeypatch.setattr(merge, "HOLD_SECONDS", 0.2)
    monkeypatch.setattr(module, "MAX_RECORDS", 2)
    ahead = {THERE: [raw(THERE, 40 + number, 500) for number in range(9)]}
    client = Client([{HERE: [raw(HERE, 7, 100)]}, ahead], {HERE: 10, THERE: 49})
    consumer = reader_of(client, monkeypatch, rest_seconds=-1)
    assert len(await consumer._gathered()) == 1
    began = time.monotonic()
    assert [len(await consumer._gathered()) for _ in range(5)] == [2, 2, 2, 2, 1]
    assert 0.2 <= time.monotonic() - began < 0.4


async def test_a_silent_partition_is_waited_for_again_once_it_gives_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that is away would hold up each fetch of all others."""
    monkeypatch.setattr(merge, "HOLD_SECONDS", 0.1)
    ends = {HERE: 99, THERE: 99}
    fetches: list[Any] = [{HERE: [raw(HERE, 7, 100)]}, {THERE: [raw(THERE, 40, 500)]}]
    client = Client(fetches, ends)
    consumer = reader_of(client, monkeypatch, rest_seconds=-1)
    assert [len(await consumer._gathered()) for _ in range(2)] == [1, 1], "the second in vain"
    for number in range(41, 46):
        ends[THERE] = number + 1
        client.gives = [{THERE: [raw(THERE, number, 500 + number)]}]
        began = time.monotonic()
        assert len(await consumer._gathered()) == 1
        assert time.monotonic() - began < 0.05
    ends[THERE] = 99
    client.gives = [{HERE: [raw(HERE, 8, 900)]}, {THERE: [raw(THERE, 46, 990)]}, {HERE: [raw(HERE, 9, 950)]}]
    records = await consumer._gathered() + await consumer._gathered()
    assert [record.timestamp_ms for record in records] == [900, 950, 990], "990 came before 950"


async def test_what_is_held_does_not_grow_with_the_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch may bring more than a batch holds."""
    monkeypatch.setattr(module, "MAX_RECORDS", 5)
    fetches = [{HERE: [raw(HERE, 7 + 9 * number + each, number) for each in range(9)]} for number in range(40)]
    client = Client(fetches, {HERE: 7 + 9 * 40})
    consumer = reader_of(client, monkeypatch, rest_seconds=-1)
    given = 0
    for _ in range(60):
        given += len(await consumer._gathered())
        assert len(consumer._reader._came) < 5 + 9
    assert given == 300


async def test_the_commands_of_a_branch_wait_for_nobody_and_nobody_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may stamp them with any time."""
    command = TopicPartition(BRANCH_REPLIES, 0)
    fetched = {command: [raw(command, 1, 4_000_000), raw(command, 2, 0)], HERE: [raw(HERE, 7, 500)]}
    client = Client([fetched], {command: 9, HERE: 8, THERE: 50})
    monkeypatch.setattr(client, "assignment", lambda: {command, HERE, THERE})
    records = await reader_of(client, monkeypatch, rest_seconds=-1)._gathered()
    assert [(record.topic, record.offset) for record in records] == [(BRANCH_REPLIES, 1), (BRANCH_REPLIES, 2)]


@pytest.mark.parametrize(
    "error", [OffsetOutOfRangeError({THERE: 40}), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "name"), KafkaError()]
)
async def test_what_came_before_a_failure_is_given_and_the_failure_comes_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client may have moved past records that it gave to nobody: without a step back there would be a hole."""
    client = Client([{HERE: [raw(HERE, 7)]}, error, error])
    consumer = reader_of(client, monkeypatch, rest_seconds=0.05)
    assert [record.offset for record in await consumer._gathered()] == [7]
    assert client.sought == {HERE: 8, THERE: 40}
    consumer._positions[HERE] = Position(8, "log", None)
    client.sought.clear()
    with pytest.raises(type(error)):
        await consumer._gathered()
    assert client.sought == {HERE: 8, THERE: 40}


async def test_a_first_read_that_fails_is_repeated_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client drops what it took of one partition when records of another cannot be read, and stands behind it."""
    client = Client([UnicodeDecodeError("utf-8", b"\xff", 0, 1, "name")])
    with pytest.raises(UnicodeDecodeError):
        await reader_of(client, monkeypatch, rest_seconds=-1)._gathered()
    assert client.sought == {HERE: 7, THERE: 40}


async def test_what_was_left_of_a_stopped_batch_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed before the stop was seen here, the client would go on behind it."""
    consumer = reader_of(Client([]), monkeypatch, rest_seconds=-1)
    consumer.failure = "50 records in a row could not be applied; reading stopped"

    async def nothing_is_paused(_: Any) -> None:
        return None

    monkeypatch.setattr(consumer._pauses, "look", nothing_is_paused)
    await consumer._look_for_pauses()
    assert consumer.failure is None
    assert consumer._reading == set(), "so that all are assigned anew, from the stored positions"


def test_an_idle_reader_asks_seldom() -> None:
    reader, client = Reader(BrokerAddress("x:1"), "gongdan.review", FETCH_MS), SimpleNamespace()
    reader.slow_down(idle=True)
    reader.client = SimpleNamespace(_fetcher=client)
    for idle, expected in ((True, IDLE_FETCH_MS), (False, FETCH_MS)):
        reader.slow_down(idle=idle)
        assert client._fetch_max_wait_ms == expected


def test_the_rest_follows_the_work_and_ends_with_large_batches() -> None:
    most = ON_THE_WAY.at_most
    assert ON_THE_WAY.rest_after(0.005, 1) == pytest.approx(0.02, rel=0.05)
    assert ON_THE_WAY.rest_after(5.0, 1) < most
    assert ON_THE_WAY.rest_after(0.05, ENOUGH // 2) == pytest.approx(most / 2)
    assert ON_THE_WAY.rest_after(0.05, ENOUGH) == ON_THE_WAY.rest_after(5.0, 500) == 0.0


def test_who_looks_on_rests_longer_than_who_passes_a_ticket_on() -> None:
    assert all(BESIDE.rest_after(work, 10) > ON_THE_WAY.rest_after(work, 10) for work in (0.002, 0.02, 2.0))
