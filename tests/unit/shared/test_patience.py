"""Waiting for a client library that cancels its own tasks."""

import asyncio

import pytest

from shared.messaging.patience import CancelledWithin, within
from shared.service import RoleEnded, _for_ever


async def cancelled_inside() -> None:
    raise asyncio.CancelledError


async def test_a_call_that_gave_itself_up_is_an_error_and_no_cancelling() -> None:
    with pytest.raises(CancelledWithin):
        await within(1, cancelled_inside())


async def test_a_call_has_an_end() -> None:
    with pytest.raises(TimeoutError):
        await within(0.01, asyncio.sleep(60))


async def test_a_result_and_an_error_come_through() -> None:
    async def fails() -> None:
        raise LookupError

    assert await within(1, asyncio.sleep(0, "answer")) == "answer"
    with pytest.raises(LookupError):
        await within(1, fails())


async def test_a_role_that_ends_in_whatever_way_is_a_failure() -> None:
    async def comes_to_its_end() -> None: ...

    for work in (cancelled_inside, comes_to_its_end):
        with pytest.raises(RoleEnded):
            await asyncio.create_task(_for_ever(work))


async def test_a_role_can_be_cancelled_by_its_service() -> None:
    task = asyncio.create_task(_for_ever(lambda: asyncio.sleep(60)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
