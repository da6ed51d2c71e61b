"""Who is asking, and why somebody was not let in. Made in `auth`, `key_store` and `tokens`; use cases read it."""

from enum import StrEnum
from typing import NamedTuple

from starlette.exceptions import HTTPException

from shared.http.keys import Role


class Principal(NamedTuple):
    """The caller. `actor` is what timelines and events record.

    `client` stays the same when a key is replaced by another one of the same owner; retries are told apart by it.
    """

    key_id: str
    role: Role
    name: str
    scope: str | None
    client: str

    @property
    def actor(self) -> str:
        return f"{self.role}:{self.scope or self.name}"


class Reason(StrEnum):
    """Why a request is not authenticated: for the metric only, the answer never says it."""

    missing = "missing"
    ambiguous = "ambiguous"
    too_long = "too_long"
    other_scheme = "other_scheme"
    unreadable = "unreadable"
    unknown_key = "unknown_key"
    wrong_secret = "wrong_secret"  # noqa: S105
    revoked = "revoked"
    expired = "expired"
    not_yet_valid = "not_yet_valid"
    algorithm = "algorithm"
    signature = "signature"
    issuer = "issuer"
    audience = "audience"
    claims = "claims"
    grant = "grant"


class NotAuthenticated(HTTPException):
    """401 (RFC 6750, section 3). The same words whatever was wrong."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(401, "a valid API key or token is needed", headers={"WWW-Authenticate": "Bearer"})
        self.reason = reason
