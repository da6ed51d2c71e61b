"""Cursor paging: newest first, below an opaque cursor, so that new rows never shift a page."""

import base64
import re
from typing import Annotated
from uuid import UUID

from fastapi import Query

from shared.errors import Invalid

MAX_PAGE = 200

# 16 bytes in base64 (RFC 4648, section 5) without padding; the last character carries two bits.
_CURSOR = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]\Z")

Cursor = Annotated[
    str | None,
    Query(
        max_length=64,
        description="`next_cursor` of the page before",
        json_schema_extra={"pattern": r"^[A-Za-z0-9_-]{21}[AQgw]$"},
    ),
]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]


def cursor_out(last: UUID) -> str:
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def read_cursor(text: str | None) -> UUID | None:
    if text is None:
        return None
    if not _CURSOR.match(text):
        raise Invalid("invalid_cursor", "the cursor is not one of ours", pointer="/query/cursor")
    return UUID(bytes=base64.urlsafe_b64decode(text + "=="))
