"""Group commit: while one transaction is in flight the next batch gathers; an answer waits for its own batch only."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

import asyncpg

from shared.errors import Transient
from shared.telemetry import metrics

Item = TypeVar("Item")
Answer = TypeVar("Answer")

MAX_BATCH = 256


class _Waiting(NamedTuple):
    """Items handed in together, and the future of their results."""

    items: Sequence[Any]
    results: "asyncio.Future[list[Any]]"


class GroupCommit(Generic[Item, Answer]):
    """Runs `work(items)`, which stores them in one transaction, for many callers.

    `work` gives one result an item, in order; an exception as a result is raised to that caller alone. When `work`
    itself fails, it stored nothing: it is run again when another process stored one of the items meanwhile, and for
    each item alone when it fails for another reason than a database that is away.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]]) -> None:
        self._work = work
        self._waiting: list[_Waiting] = []
        self._busy = False
        self._tasks: set[asyncio.Task[None]] = set()

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
        future: asyncio.Future[list[Answer | Exception]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(items, future))
        if not self._busy:
            self._busy = True
            task = asyncio.create_task(self._drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch = self._next()
                items = [item for waiting in batch for item in waiting.items]
                metrics.group_commit_size.observe(len(items))
                try:
                    results = await self._results(items)
                except BaseException:
                    for waiting in batch:
                        waiting.results.cancel()
                    raise
                given = iter(results)
                for waiting in batch:
                    own = list(islice(given, len(waiting.items)))
                    # Its caller may have gone away.
                    if not waiting.results.done():
                        waiting.results.set_result(own)
        finally:
            self._busy = False

    def _next(self) -> list[_Waiting]:
        """Those who came first, as many as fit into a batch."""
        size = count = 0
        for waiting in self._waiting:
            size += len(waiting.items)
            if count and size > MAX_BATCH:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

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
