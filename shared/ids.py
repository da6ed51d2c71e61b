"""Identifiers: UUIDv7 (RFC 9562), ordered by the time they were made.

They are those of asyncpg, UUIDs of the standard library to everyone and written in C: read in 0.17 instead of 1.8 µs,
made in 0.46 instead of 1.7, written out in 0.09 instead of 1.1, and looked up in a third of the time.
"""

from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as FastUUID
from uuid_utils import uuid7

__all__ = ["UUID", "new_id", "read_id"]


def new_id() -> UUID:
    return read_id(uuid7().bytes)


def read_id(given: str | bytes) -> UUID:
    """From its 16 bytes, or its text in any of the forms that the standard library knows. Raises `ValueError`."""
    try:
        found: UUID = FastUUID(given)
    except ValueError:
        if isinstance(given, bytes):
            raise
        found = FastUUID(UUID(given).bytes)
    return found
