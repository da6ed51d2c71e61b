"""A Kafka client that ends badly does not take its user with it, and leaves no connection open."""

import asyncio
import logging
from typing import Any

import pytest
from aiokafka.errors import KafkaError

from shared.messaging import reader
from shared.messaging.reader import stop_reader


class Client:
    """What aiokafka's consumer looks like to whoever stops it; `ends` is how its stop goes."""

    def __init__(self, ends: BaseException | None = None, seconds: float = 0) -> None:
        self._ends, self._seconds, self._client, self.closed = ends, seconds, self, False

    async def stop(self) -> None:
        await asyncio.sleep(self._seconds)
        if self._ends is not None:
            raise self._ends

    async def close(self) -> None:
        self.closed = True


async def test_a_stop_that_ends_as_cancelled_lets_the_caller_go_on_and_closes_the_connections() -> None:
    client: Any = Client(asyncio.CancelledError())
    await asyncio.create_task(stop_reader(client))
    assert client.closed


@pytest.mark.parametrize("ends", [None, KafkaError("away"), OSError("away")])
async def test_a_broker_that_is_away_is_no_failure(ends: BaseException | None) -> None:
    client: Any = Client(ends)
    await stop_reader(client)
    assert not client.closed


async def test_a_stop_without_end_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reader, "STOP_SECONDS", 0.05)
    caplog.set_level(logging.INFO, reader.__name__)
    client: Any = Client(seconds=60)
    await stop_reader(client)
    assert "left behind" in caplog.text
