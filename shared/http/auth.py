"""Who is asking: API keys, roles, and the branch scope. Every route but `/health/*` depends on `allow(...)`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from shared.errors import Forbidden
from shared.http.keys import KeyStore, Role

bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer gd_…`")


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller. `actor` is what timelines and events record."""

    key_id: str
    role: Role
    name: str
    scope: str | None

    @property
    def actor(self) -> str:
        return f"{self.role}:{self.scope or self.name}"

    def must_hold(self, branch: str | None) -> None:
        """Refuse a branch that touches another branch's order; the answer does not tell that the order exists."""
        if self.role is Role.branch and self.scope != branch:
            raise Forbidden("not_your_order", "no order of this number is with your branch")


def allow(*roles: Role) -> Callable[..., Awaitable[Principal]]:
    """A dependency that lets these roles in. 401 without a valid key, 403 with a key of another role."""
    allowed = frozenset(roles)

    async def principal(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> Principal:
        keys: KeyStore = request.app.state.keys
        record = keys.find(credentials.credentials) if credentials is not None else None
        if record is None:
            raise HTTPException(401, "a valid API key is needed", headers={"WWW-Authenticate": "Bearer"})
        if record.role not in allowed:
            raise Forbidden("role_not_allowed", f"this needs one of the roles: {', '.join(sorted(allowed))}")
        return Principal(record.key_id, record.role, record.name, record.scope)

    principal.roles = allowed  # type: ignore[attr-defined]
    return principal
