"""What every use case of intake works with, and the small things they share."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from services.intake.schemas import Links, Personal
from shared.clock import Clock
from shared.errors import Conflict, Forbidden
from shared.http.auth import Principal
from shared.http.keys import Role
from shared.http.problems import FieldError, InvalidFields
from shared.policy import Pack, Unknown
from shared.privacy import KeyMissing, Vault, mask

_CODE = re.compile(r"[A-Za-z0-9_.:\-]+")


@dataclass(frozen=True, slots=True)
class Desk:
    """What every use case of intake works with."""

    pack: Pack
    vault: Vault
    clock: Clock

    @property
    def own_branch(self) -> str:
        """The organisation's own centre: it handles what belongs to no city."""
        return next(branch.id for branch in self.pack.branches if branch.kind == "centre")


def opened(desk: Desk, row: Any) -> Personal:
    """The personal data of a ticket. Raises `Conflict` when it was erased, or when no key in use opens it."""
    if row.personal is None:
        raise Conflict("contact_erased", "the personal data of this ticket was erased")
    try:
        return Personal.model_validate_json(desk.vault.open(row.ticket_id, bytes(row.personal)))
    except KeyMissing:
        raise Conflict("data_key_missing", "the key that sealed this ticket's personal data is not in use") from None
    except ValueError:
        raise Conflict("contact_unreadable", "this ticket's personal data does not open; it was altered") from None


def links(ticket_no: str) -> Links:
    return Links(self=f"/v1/tickets/{ticket_no}", timeline=f"/v1/tickets/{ticket_no}/timeline")


def refuse_unknown(unknown: Sequence[Unknown]) -> None:
    if unknown:
        raise InvalidFields(
            [
                FieldError(
                    pointer="/" + item.field.replace(".", "/"),
                    code="unknown_value",
                    detail=f"{_shown(item.value)} is not known to the policy pack",
                    expected=list(item.expected),
                )
                for item in unknown
            ],
            code="unknown_value",
        )


def _shown(value: str) -> str:
    """A code as it was given, to find the misspelling; anything else may be a person's name."""
    return repr(mask(value)[:64]) if _CODE.fullmatch(value) else "the value"


def check_channel(principal: Principal, channel: str) -> None:
    """A key that belongs to one channel posts for that channel only."""
    if principal.role is Role.front_line and principal.scope not in (None, channel):
        raise Forbidden("channel_not_yours", f"this key may post for the channel {principal.scope} only")


def may_see(principal: Principal, row: Any) -> bool:
    """A branch sees what it holds now, a front line with a channel scope its own channel, the others everything."""
    if principal.role == "branch":
        return bool(row.branch == principal.scope)
    if principal.role == "front_line" and principal.scope is not None:
        return bool(row.channel == principal.scope)
    return True


def entry(
    ticket_id: UUID,
    event_id: UUID,
    at: datetime,
    kind: str,
    actor: str,
    rules: Sequence[str] = (),
    details: dict[str, Any] | None = None,
    service: str = "intake",
) -> dict[str, Any]:
    """A row of the timeline."""
    return {
        "ticket_id": ticket_id,
        "event_id": event_id,
        "at": at,
        "service": service,
        "type": kind,
        "actor": actor,
        "rules": [rule for rule in dict.fromkeys(rules) if rule],
        "details": details or {},
    }
