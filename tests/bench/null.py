"""A server that does nothing but answer 201 with as many bytes as intake: against it the load generator shows how fast
it is itself.

    python -m tests.bench.null PORT
"""

import asyncio
import sys
from typing import cast

import uvloop

BODY = b'{"ticket_id":"019b0a51-7c80-7d35-9f11-3c2a8e64b7d0","ticket_no":"T20261122-0000012"}'.ljust(260)
ANSWER = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Null(asyncio.Protocol):
    """Every read is taken for one request, which holds for requests of some hundred bytes on the same machine."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(ANSWER)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Null, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
