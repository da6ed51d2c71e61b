"""Group commit: who shares a transaction, and who hears of a failure."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest

from shared.database import group_commit
from shared.database.group_commit import GroupCommit
from shared.errors import Conflict, Transient


class Bench:
    """Work that stores nothing but counts; items that are exceptions fail as such, and "spoils" their batch."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.away = False
        self.commits: GroupCommit[Any, Any] = GroupCommit(self._work, lambda item: [item])

    async def _work(self, items: Sequence[Any]) -> list[Any]:
        await asyncio.sleep(0)
        if self.away:
            raise Transient("away")
        self.batches.append(list(items))
        await asyncio.sleep(0.01)
        if "spoils" in items:
            raise LookupError("spoilt")
        return [item if isinstance(item, Exception) else f"did {item}" for item in items]


async def test_who_comes_while_a_batch_is_stored_shares_the_next() -> None:
    bench = Bench()
    first = asyncio.create_task(bench.commits.submit("a"))
    await asyncio.sleep(0.005)
    rest = await asyncio.gather(first, bench.commits.submit("b"), bench.commits.submit_all(["c", "d"]))
    assert rest == ["did a", "did b", ["did c", "did d"]]
    assert list(map(sorted, bench.batches)) == [["a"], ["b", "c", "d"]]


async def test_a_batch_has_a_limit_and_a_group_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "MAX_BATCH", 3)
    bench = Bench()
    await asyncio.gather(*(bench.commits.submit_all(group) for group in (["a", "b"], ["c", "d"], ["e"], ["f"])))
    assert bench.batches == [["a", "b"], ["c", "d", "e"], ["f"]]


async def test_an_error_is_raised_to_its_caller_alone() -> None:
    bench = Bench()
    found = await asyncio.gather(
        bench.commits.submit("a"), bench.commits.submit(Conflict("no", "no")), return_exceptions=True
    )
    assert found[0] == "did a"
    assert isinstance(found[1], Conflict)
    assert await bench.commits.submit_all(["b", found[1]]) == ["did b", found[1]]


async def test_a_batch_that_fails_is_tried_one_by_one() -> None:
    bench = Bench()
    found = await asyncio.gather(*map(bench.commits.submit, ("a", "spoils", "b")), return_exceptions=True)
    assert (found[0], found[2]) == ("did a", "did b")
    assert isinstance(found[1], LookupError)


async def test_a_batch_of_which_another_process_stored_a_part_is_run_again_as_a_whole() -> None:
    batches: list[list[Any]] = []

    async def work(items: Sequence[Any]) -> list[Any]:
        batches.append(list(items))
        if len(batches) == 1:
            raise asyncpg.UniqueViolationError("stored meanwhile")
        return [f"did {item}" for item in items]

    assert await GroupCommit(work, lambda item: [item]).submit_all(["a", "b"]) == ["did a", "did b"]
    assert batches == [["a", "b"], ["a", "b"]]


async def test_an_item_that_never_fits_does_not_hinder_the_others() -> None:
    async def work(items: Sequence[Any]) -> list[Any]:
        if "odd" in items:
            raise asyncpg.CheckViolationError("odd")
        return [f"did {item}" for item in items]

    found = await GroupCommit(work, lambda item: [item]).submit_all(["a", "odd", "b"])
    assert (found[0], found[2]) == ("did a", "did b")
    assert isinstance(found[1], asyncpg.CheckViolationError)


async def test_a_database_that_is_away_is_told_to_all_and_not_tried_again() -> None:
    bench = Bench()
    bench.away = True
    found = await asyncio.gather(*map(bench.commits.submit, "ab"), return_exceptions=True)
    assert [type(each) for each in found] == [Transient, Transient]
    assert bench.batches == []
    bench.away = False
    assert await bench.commits.submit("c") == "did c"


async def test_work_goes_on_when_its_caller_goes_away() -> None:
    bench = Bench()
    gone = asyncio.create_task(bench.commits.submit("a"))
    stays = asyncio.create_task(bench.commits.submit("b"))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays == "did b"
    assert bench.batches == [["a", "b"]]
    assert gone.cancelled()


async def test_behind_an_item_that_met_the_database_away_nothing_of_its_group_is_stored() -> None:
    """Who sends an import again from its first such answer on would find the later ones twice."""
    bench = Bench()

    async def work(items: Sequence[Any]) -> list[Any]:
        if len(items) > 1:
            raise LookupError("spoilt")
        if items == ["c"]:
            raise Transient("a deadlock")
        bench.batches.append(list(items))
        return [f"did {item}" for item in items]

    commits: GroupCommit[Any, Any] = GroupCommit(work, lambda item: [item])
    found = await commits.submit_all(["a", "b", "c", "d", "e"])
    assert found[:2] == ["did a", "did b"]
    assert all(isinstance(each, Transient) for each in found[2:])
    assert bench.batches == [["a"], ["b"]]


class Landing:
    """Work that goes on until it is let go; an item is its name and what it touches."""

    def __init__(self) -> None:
        self.begun: list[list[str]] = []
        self._gates: dict[str, asyncio.Event] = {}
        self.commits: GroupCommit[tuple[str, str], str] = GroupCommit(
            self._work, lambda item: [item[1]], worth_another=2
        )

    async def _work(self, items: Sequence[tuple[str, str]]) -> list[str]:
        names = [name for name, _ in items]
        self.begun.append(names)
        gate = self._gates[names[0]] = asyncio.Event()
        await gate.wait()
        return names

    async def begin(self, *items: tuple[str, str]) -> "asyncio.Future[list[Any]]":
        done = asyncio.gather(*map(self.commits.submit, items))
        await asyncio.sleep(0.002)
        return done

    async def land(self, name: str) -> None:
        self._gates[name].set()
        await asyncio.sleep(0.002)


async def test_a_second_batch_leaves_beside_the_first_when_it_is_worth_it_and_a_third_waits() -> None:
    landing = Landing()
    first = await landing.begin(("a", "1"))
    alone = await landing.begin(("b", "2"))
    assert landing.begun == [["a"]]
    with_another = await landing.begin(("c", "3"))
    await landing.begin(("d", "4"), ("e", "5"))
    assert landing.begun == [["a"], ["b", "c"]]
    await landing.land("b")
    assert (await alone, await with_another) == (["b"], ["c"])
    assert landing.begun == [["a"], ["b", "c"], ["d", "e"]]
    assert not first.done()
    await landing.land("a")
    assert await first == ["a"]


async def test_who_touches_what_is_in_flight_waits_and_others_pass() -> None:
    landing = Landing()
    await landing.begin(("a", "1"))
    await landing.begin(("b", "1"), ("c", "2"), ("d", "1"))
    assert landing.begun == [["a"], ["c"]]
    await landing.land("a")
    assert landing.begun == [["a"], ["c"], ["b", "d"]]


async def test_a_group_that_waits_is_not_passed_by_others_that_touch_the_same() -> None:
    """Else a large group could wait for ever."""
    landing = Landing()
    await landing.begin(("a", "1"))
    group = landing.commits.submit_all([("b", "1"), ("c", "2")])
    await landing.begin(("d", "2"), ("e", "3"))
    assert landing.begun == [["a"], ["e"]]
    await landing.land("a")
    assert landing.begun[2] == ["b", "c", "d"]
    await landing.land("b")
    assert await group == ["b", "c"]
