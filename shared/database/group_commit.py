"""Group commit: while transactions are in flight the next batch gathers; an answer waits for its own batch only."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

import asyncpg

from shared.errors import Transient
from shared.telemetry import metrics

Item = TypeVar("Item")
Answer = TypeVar("Answer")

MAX_BATCH = 256
AT_ONCE = 2
# So many items must wait for a batch to leave beside another one: smaller ones cost more than they save.
WORTH_ANOTHER = 16


class _Waiting(NamedTuple):
    """Items handed in together, what they touch, and the future of their results."""

    items: Sequence[Any]
    touched: frozenset[Hashable]
    results: "asyncio.Future[list[Any]]"


class GroupCommit(Generic[Item, Answer]):
    """Runs `work(items)`, which stores them in one transaction, for many callers.

    `work` gives one result an item, in order; an exception as a result is raised to that caller alone. When `work`
    itself fails, it stored none of them: it is run again when another process stored one of the items meanwhile,
    and for each item alone when it fails for another reason than a database that is away.

    Two batches may be in flight, so that one is worked out while PostgreSQL stores the other. They never share anything
    that `touches(item)` names: who comes later and touches the same waits until it is stored. The second one leaves
    when `worth_another` items wait for it.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        touches: Callable[[Item], Iterable[Hashable]],
        worth_another: int = WORTH_ANOTHER,
    ) -> None:
        self._work = work
        self._touches = touches
        self._worth_another = worth_another
        self._waiting: list[_Waiting] = []
        self._in_flight: dict[asyncio.Task[None], frozenset[Hashable]] = {}
        self._going_on = False
        # Kept: Python 3.11 makes a system call to tell the running loop, 4 µs a ticket under load.
        self._loop: asyncio.AbstractEventLoop | None = None

    async def submit(self, item: Item) -> Answer:
        """The item's answer, after its batch is committed. Goes on to its end when the caller goes away."""
        (result,) = await self.submit_all((item,))
        if isinstance(result, Exception):
            # Without its traceback: callers who fail together would each add to it.
            raise result.with_traceback(None)
        return result

    def submit_all(self, items: Sequence[Item]) -> "asyncio.Future[list[Answer | Exception]]":
        """The answer of each item, or what it failed with, in order, as `submit` gives them. They share a transaction,
        unless something in it fails; at most `MAX_BATCH` of them."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Answer | Exception]] = self._loop.create_future()
        touched = frozenset[Hashable]().union(*map(self._touches, items))
        self._waiting.append(_Waiting(items, touched, future))
        self._go_on_soon(self._loop)
        return future

    def _go_on_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """When everybody who is here already has handed in what they have."""
        if not self._going_on:
            self._going_on = True
            loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._going_on = False
        while len(self._in_flight) < AT_ONCE and self._worth_it() and (batch := self._next()):
            task = asyncio.create_task(self._run(batch))
            self._in_flight[task] = frozenset().union(*(waiting.touched for waiting in batch))
            task.add_done_callback(self._landed)

    def _worth_it(self) -> bool:
        return not self._in_flight or sum(len(waiting.items) for waiting in self._waiting) >= self._worth_another

    def _landed(self, task: "asyncio.Task[None]") -> None:
        del self._in_flight[task]
        self._go_on_soon(task.get_loop())

    def _next(self) -> list[_Waiting]:
        """Those who came first, as many as fit into a batch and touch nothing that is in flight, or that somebody
        before them waits for."""
        taken: list[_Waiting] = []
        left: list[_Waiting] = []
        blocked = set().union(*self._in_flight.values())
        size = 0
        for place, waiting in enumerate(self._waiting):
            if not blocked.isdisjoint(waiting.touched):
                blocked |= waiting.touched
                left.append(waiting)
                continue
            size += len(waiting.items)
            if taken and size > MAX_BATCH:
                left += self._waiting[place:]
                break
            taken.append(waiting)
        self._waiting = left
        return taken

    async def _run(self, batch: Sequence[_Waiting]) -> None:
        items = [item for waiting in batch for item in waiting.items]
        metrics.group_commit_size.observe(len(items))
        try:
            results = iter(await self._results(items))
        except BaseException:
            for waiting in batch:
                waiting.results.cancel()
            raise
        for waiting in batch:
            own = list(islice(results, len(waiting.items)))
            # Its caller may have gone away.
            if not waiting.results.done():
                waiting.results.set_result(own)

    async def _results(self, items: Sequence[Item], *, again: bool = False) -> Sequence[Answer | Exception]:
        try:
            return await self._work(items)
        except Exception as error:
            if isinstance(error, asyncpg.IntegrityConstraintViolationError) and not again:
                # Another process stored the same identity meanwhile; now it is there to be found.
                return await self._results(items, again=True)
            if len(items) == 1 or isinstance(error, Transient):
                return [error] * len(items)
            return await self._one_by_one(items)

    async def _one_by_one(self, items: Sequence[Item]) -> Sequence[Answer | Exception]:
        """Each in a transaction of its own. Once the database is away, nothing behind that is tried: who sends an
        import again from its first such answer on must not find later ones stored."""
        results: list[Answer | Exception] = []
        for item in items:
            away = results[-1] if results and isinstance(results[-1], Transient) else None
            results += [away] if away is not None else await self._results([item])
        return results
