"""What leaves a connection: the head of an answer together with its body."""

import asyncio
from typing import Any

from shared.http.protocol import _Exit

HEAD, BODY = b"HTTP/1.1 201 Created\r\n\r\n", b"{}"


class Connection:
    """A protocol and its socket in one, noting what is sent in one piece."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.sent: list[bytes] = []
        self.leaving = False
        self.exit = _Exit(self, self)  # type: ignore[arg-type]

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def leave(self, **_: Any) -> None:
        self.leaving = True


async def test_a_head_and_the_body_behind_it_leave_in_one_piece() -> None:
    connection = Connection()
    for _ in range(2):
        connection.exit.write(HEAD)
        connection.exit.write(BODY)
    await asyncio.sleep(0)
    assert connection.sent == [HEAD + BODY, HEAD + BODY]


async def test_a_head_does_not_wait_for_a_body_that_comes_later() -> None:
    connection = Connection()
    connection.exit.write(HEAD)
    await asyncio.sleep(0)
    assert connection.sent == [HEAD]
    connection.exit.write(BODY)
    assert connection.sent == [HEAD, BODY]


async def test_a_head_without_a_body_leaves_before_the_connection_closes() -> None:
    connection = Connection()
    connection.exit.write(HEAD)
    connection.exit.close()
    connection.exit.write(BODY)
    await asyncio.sleep(0)
    assert connection.sent == [HEAD]
