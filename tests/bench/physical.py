"""What the parts under the platform can do by themselves: PostgreSQL's commits and the broker's acknowledgements.

Both run in the load generator's process, with the drivers that the platform uses.
"""

import asyncio
import time
from typing import Any

import asyncpg
from aiokafka import AIOKafkaProducer

ROW = b"x" * 600
TOGETHER = 64
SENDERS = 4


async def commits(dsn: str, writers: int, rows: int, seconds: float) -> dict[str, Any]:
    """Rows and commits a second of so many connections that each insert `rows` rows of 600 bytes a transaction.

    One row is a plain INSERT, more are one INSERT from `unnest`; `fsync` and `synchronous_commit` as the server has
    them.
    """
    connections = [await asyncpg.connect(dsn) for _ in range(writers)]
    await connections[0].execute("CREATE TABLE IF NOT EXISTS written (id bigserial PRIMARY KEY, body bytea NOT NULL)")
    done = 0
    began = time.perf_counter()

    async def write(connection: Any) -> None:
        nonlocal done
        words = "INSERT INTO written (body) " + ("VALUES ($1)" if rows == 1 else "SELECT unnest($1::bytea[])")
        statement, given = await connection.prepare(words), ROW if rows == 1 else [ROW] * rows
        while time.perf_counter() < began + seconds:
            await statement.fetch(given)
            done += 1

    await asyncio.gather(*(write(connection) for connection in connections))
    passed = time.perf_counter() - began
    for connection in connections:
        await connection.close()
    return {"commits": done, "rows": done * rows, "rate": done * rows / passed, "seconds": passed}


async def produce(bootstrap: str, topic: str, seconds: float) -> dict[str, Any]:
    """Records of 600 bytes a second through aiokafka's producer with `acks=all`, as many in flight as it batches."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=False)
    await producer.start()
    done = 0
    began = time.perf_counter()
    try:

        async def send() -> None:
            nonlocal done
            while time.perf_counter() < began + seconds:
                waiting = [await producer.send(topic, ROW, key=b"%d" % (done + number)) for number in range(TOGETHER)]
                await asyncio.gather(*waiting)
                done += len(waiting)

        await asyncio.gather(*(send() for _ in range(SENDERS)))
        passed = time.perf_counter() - began
    finally:
        await producer.stop()
    return {"records": done, "rate": done / passed, "seconds": passed}
