"""Cursor paging: newest first, below an opaque cursor, so that new rows never shift a page."""

import base64
from typing import Annotated
from uuid import UUID

from fastapi import Query

from shared.errors import Invalid

MAX_PAGE = 200

Cursor = Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]


def cursor_out(last: UUID) -> str:
    return base64.urlsafe_b64encode(last.bytes).decode().rstrip("=")


def read_cursor(text: str | None) -> UUID | None:
    if text is None:
        return None
    try:
        return UUID(bytes=base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError:
        raise Invalid("invalid_cursor", "the cursor is not one of ours", pointer="/query/cursor") from None
