"""Safe retries: the first answer to an `Idempotency-Key` is kept, in the transaction that did the work.

The same key with the same body gives the first answer again; with another body it is 422 (`idempotency_key_reused`).
Two requests at once: the second waits on the first's row (for what goes in groups: on what both are about) and then
gets its answer.
"""

import hashlib
from collections.abc import Awaitable, Callable, Collection
from typing import Annotated

from fastapi import Header, Request
from pydantic import BaseModel
from sqlalchemy import text
from starlette.responses import Response

from shared.database import arrays
from shared.database.connection import Connection
from shared.database.engine import Database, Transaction
from shared.errors import Invalid
from shared.failpoints import reach
from shared.http.auth import Principal

KEY_PATTERN = r"^[\x21-\x7e]+$"
KEY_LENGTH = 255

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=KEY_LENGTH,
        pattern=KEY_PATTERN,
        description="Makes a retry safe: the same key and body get the first answer again",
    ),
]


def request_hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"\0".join(parts)).digest()


def reused() -> Invalid:
    return Invalid(
        "idempotency_key_reused", "this Idempotency-Key was used with another body", pointer="/header/Idempotency-Key"
    )


async def answer_once(
    database: Database,
    http: Request,
    principal: Principal,
    key: str | None,
    work: Callable[[Transaction], Awaitable[BaseModel]],
) -> Response:
    """Do the work in one transaction and answer 200 with its result; with a key, once only."""
    body_hash = request_hash(http.url.path.encode(), await http.body())

    async def run(transaction: Transaction) -> bytes:
        if key is None:
            return (await work(transaction)).model_dump_json().encode()
        connection = transaction.connection
        claimed = await connection.execute(
            text(
                "INSERT INTO idempotency_keys (client, key, request_hash) VALUES (:client, :key, :hash)"
                " ON CONFLICT DO NOTHING"
            ),
            {"client": principal.client, "key": key, "hash": body_hash},
        )
        if claimed.rowcount == 0:
            row = (
                await connection.execute(
                    text("SELECT request_hash, answer FROM idempotency_keys WHERE client = :client AND key = :key"),
                    {"client": principal.client, "key": key},
                )
            ).one()
            if bytes(row.request_hash) != body_hash:
                raise reused()
            return bytes(row.answer)
        reach("request.key_claimed")
        answer = (await work(transaction)).model_dump_json().encode()
        await connection.execute(
            text("UPDATE idempotency_keys SET status = 200, answer = :answer WHERE client = :client AND key = :key"),
            {"client": principal.client, "key": key, "answer": answer},
        )
        return answer

    return Response(await database.write(run), media_type="application/json")


# ---- many at once --------------------------------------------------------------------------------------------------

_KEPT = "SELECT client, key, request_hash, answer FROM idempotency_keys WHERE client = ANY($1) AND key = ANY($2)"
# Keys in one order, so that two processes with the same ones never wait for each other in a circle.
_KEEP = """
INSERT INTO idempotency_keys (client, key, request_hash, status, answer)
SELECT client, key, hash, $5, answer
FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bytea[]) AS given(client, key, hash, answer)
"""


async def kept_answers(
    connection: Connection, keys: Collection[tuple[str, str]]
) -> dict[tuple[str, str], tuple[bytes, bytes]]:
    """(client, key) → request hash and answer, of those keys that were seen before."""
    rows = await connection.fetch(_KEPT, *arrays.apart(keys))
    kept = {(client, key): (request_hash, answer) for client, key, request_hash, answer in rows}
    return {pair: kept[pair] for pair in keys if pair in kept}


async def keep_answers(connection: Connection, rows: Collection[tuple[str, str, bytes, bytes]], status: int) -> None:
    """Client, key, request hash and answer of each. Raises `UniqueViolationError`, and then keeps none of them."""
    await connection.run(_KEEP, *arrays.by_column(sorted(rows)), status)
