"""Waiting for the Kafka client, with an end.

aiokafka lets a cancelling of its own tasks come out of `start`, `stop` and reads while the broker goes away; taken for
ours it would end a role in silence. Each call therefore runs in a task of its own.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiokafka.errors import KafkaError

T = TypeVar("T")


class CancelledWithin(KafkaError):  # type: ignore[misc]
    """The client gave a call up by itself."""


async def within(seconds: float, call: Coroutine[Any, Any, T]) -> T:
    """The call's result. Raises `TimeoutError` after so many seconds, and `CancelledWithin` when the client gave up."""
    task = asyncio.ensure_future(call)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        unfinished = task.cancel()
    if unfinished:
        raise TimeoutError
    if task.cancelled():
        raise CancelledWithin
    return task.result()
