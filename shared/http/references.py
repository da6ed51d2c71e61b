"""How a path names a ticket: by its number (`T20261122-0000012`) or by its id (a UUID)."""

import re
from typing import Annotated
from uuid import UUID

from fastapi import Path

from shared.errors import NotFound

TicketReference = Annotated[
    str, Path(min_length=10, max_length=64, description="ticket number or id", examples=["T20261122-0000012"])
]

_NUMBER = re.compile(r"T\d{8}-\d{7,12}\Z")


def ticket_reference(text: str) -> UUID | str:
    """Raises `NotFound` when the text is neither; such a ticket cannot exist."""
    if _NUMBER.match(text):
        return text
    try:
        return UUID(text)
    except ValueError:
        raise NotFound("ticket_not_found", "no ticket of this number") from None
