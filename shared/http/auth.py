"""Who is asking: API keys, roles, and the branch scope. Every route but `/health/*` depends on `allow(...)`."""

from dataclasses import dataclass

from fastapi import Request
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.security.base import SecurityBase
from starlette.exceptions import HTTPException

from shared.errors import Forbidden
from shared.http.keys import KeyStore, Role


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


class allow(SecurityBase):
    """A dependency that lets these roles in. 401 without a valid key, 403 with a key of another role."""

    def __init__(self, *roles: Role) -> None:
        self.roles = frozenset(roles)
        self.model = HTTPBearerModel(description="An API key: `Authorization: Bearer gd_…`")
        self.scheme_name = "ApiKey"

    async def __call__(self, request: Request) -> Principal:
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        keys: KeyStore = request.app.state.keys
        record = keys.find(credentials) if scheme.lower() == "bearer" else None
        if record is None:
            request.app.state.rates.failed(request)
            raise HTTPException(401, "a valid API key is needed", headers={"WWW-Authenticate": "Bearer"})
        request.app.state.rates.admit(request, record.key_id)
        if record.role not in self.roles:
            raise Forbidden("role_not_allowed", f"this needs one of the roles: {', '.join(sorted(self.roles))}")
        return Principal(record.key_id, record.role, record.name, record.scope)
