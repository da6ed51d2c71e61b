"""Group commit: while one transaction is in flight the next batch gathers; an answer waits for its own batch only."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import asyncpg

from shared.database.engine import Database, Transaction
from shared.errors import Transient
from shared.telemetry import metrics

Item = TypeVar("Item")
Answer = TypeVar("Answer")

MAX_BATCH = 256


class GroupCommit(Generic[Item, Answer]):
    """Runs `work(transaction, items)` for many callers in one transaction.

    `work` gives one result an item, in order; an exception as a result is raised to that caller alone. When `work`
    itself fails for another reason than a database that is away, each item is tried in a transaction of its own.
    """

    def __init__(
        self,
        database: Database,
        work: Callable[[Transaction, Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
    ) -> None:
        self._database = database
        self._work = work
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._busy = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Answer:
        """The item's answer, after its batch is committed. Goes on to its end when the caller goes away."""
        return await asyncio.shield(self._put(item))

    async def submit_all(self, items: Sequence[Item]) -> list[Answer | BaseException]:
        """The answer of each item, or what it failed with, in order, as `submit` gives them."""
        return await asyncio.shield(asyncio.gather(*map(self._put, items), return_exceptions=True))

    def _put(self, item: Item) -> "asyncio.Future[Answer]":
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if not self._busy:
            self._busy = True
            task = asyncio.create_task(self._drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                metrics.group_commit_size.observe(len(batch))
                await self._commit(batch)
        finally:
            self._busy = False

    async def _commit(self, batch: list[tuple[Item, asyncio.Future[Answer]]], *, again: bool = False) -> None:
        try:
            async with self._database.transaction() as transaction:
                results = await self._work(transaction, [item for item, _ in batch])
        except BaseException as error:
            if not isinstance(error, Exception):
                for _, future in batch:
                    future.cancel()
                raise
            if len(batch) == 1 and isinstance(error, asyncpg.IntegrityConstraintViolationError) and not again:
                # Another process stored the same identity meanwhile; now it is there to be found.
                await self._commit(batch, again=True)
            elif len(batch) == 1 or isinstance(error, Transient):
                for _, future in batch:
                    _fail(future, error)
            else:
                for one in batch:
                    await self._commit([one])
            return
        for (_, future), result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                _fail(future, result)
            elif not future.done():
                future.set_result(result)


def _fail(future: "asyncio.Future[Answer]", error: Exception) -> None:
    if not future.done():
        # Without its traceback: callers who fail together would each add to it.
        future.set_exception(error.with_traceback(None))
