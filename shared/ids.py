"""Identifiers: UUIDv7 (RFC 9562), ordered by the time they were made."""

from uuid import UUID

import uuid_utils
from uuid_utils.compat import uuid7

__all__ = ["UUID", "new_id", "new_id_text"]


def new_id() -> UUID:
    return uuid7()


def new_id_text() -> str:
    """A new id as text: 0.2 µs, `str(new_id())` 2."""
    return str(uuid_utils.uuid7())
