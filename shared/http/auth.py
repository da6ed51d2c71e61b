"""Who gets in: API keys and tokens, roles, the branch scope. Every route but `/health/*` depends on `allow(...)`."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection
from starlette.responses import Response

from shared.errors import Forbidden
from shared.http.key_store import KeyStore
from shared.http.keys import Role
from shared.http.principal import NotAuthenticated, Principal, Reason
from shared.http.rate import RateLimits
from shared.http.tokens import Tokens
from shared.telemetry import metrics

__all__ = ["Door", "Principal", "allow"]

CREDENTIALS_LIMIT_BYTES = 8 * 1024
ENTERED = "gongdan.principal"
"""Where in the ASGI scope the caller stands once it was let in."""


class Door:
    """The ways into one service: its API keys, and the tokens of an issuer where one is set.

    `note` hears the id of each API key that was let in.
    """

    def __init__(self, keys: KeyStore, tokens: Tokens | None, note: Callable[[str], None]) -> None:
        self._keys = keys
        self._tokens = tokens
        self._note = note

    async def principal(self, headers: Sequence[str]) -> Principal:
        """The caller by its `Authorization` headers. Raises `NotAuthenticated`, which is counted by its reason.

        Raises `Transient` when a token comes and the issuer's keys were never to be had.
        """
        try:
            credentials = _credentials(headers)
            if self._tokens is not None and not credentials.startswith("gd_"):
                return await self._tokens.principal(credentials)
            record = self._keys.find(credentials)
            self._note(record.key_id)
            return Principal(record.key_id, record.role, record.name, record.scope, record.client)
        except NotAuthenticated as error:
            metrics.authentication_failures.labels(error.reason).inc()
            raise


def _credentials(headers: Sequence[str]) -> str:
    if not headers:
        raise NotAuthenticated(Reason.missing)
    if len(headers) > 1:
        # Which one a proxy before us has looked at is not known.
        raise NotAuthenticated(Reason.ambiguous)
    scheme, _, credentials = headers[0].partition(" ")
    if len(credentials) > CREDENTIALS_LIMIT_BYTES:
        raise NotAuthenticated(Reason.too_long)
    if scheme.lower() != "bearer":
        raise NotAuthenticated(Reason.other_scheme)
    return credentials


class _TokenScheme(SecurityBase):
    """Names the second way in to the documentation; `allow` does the work."""

    def __init__(self) -> None:
        self.model = HTTPBearerModel(
            bearerFormat="JWT", description="An access token of the OpenID Connect issuer, where one is set"
        )
        self.scheme_name = "Token"

    async def __call__(self) -> None:
        return None


_TOKEN_SCHEME = _TokenScheme()


class allow(SecurityBase):
    """A dependency that lets these roles in. 401 without a valid key or token, 403 with one of another role."""

    def __init__(self, *roles: Role) -> None:
        self.roles = frozenset(roles)
        self.model = HTTPBearerModel(description="An API key: `Authorization: Bearer gd_…`")
        self.scheme_name = "ApiKey"

    async def __call__(self, request: Request, _: Annotated[None, Depends(_TOKEN_SCHEME)]) -> Principal:
        entered: Principal | None = request.scope.get(ENTERED)
        return self._admitted(entered) if entered is not None else await self.enter(request)

    async def enter(self, http: HTTPConnection) -> Principal:
        """Raises `NotAuthenticated`, `Forbidden`, or `Refused` (429)."""
        door: Door = http.app.state.door
        rates: RateLimits = http.app.state.rates
        given = [value.decode("latin-1") for name, value in http.scope["headers"] if name == b"authorization"]
        try:
            principal = await door.principal(given)
        except NotAuthenticated:
            rates.failed(http)
            raise
        rates.admit(http, principal.client)
        return self._admitted(principal)

    def _admitted(self, principal: Principal) -> Principal:
        if principal.role not in self.roles:
            raise Forbidden("role_not_allowed", f"this needs one of the roles: {', '.join(sorted(self.roles))}")
        return principal


class DoorFirst(APIRoute):
    """A route that asks who is there before it reads the body: FastAPI would read and check that first."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        gates = [inner.call for inner in self.dependant.dependencies if isinstance(inner.call, allow)]

        async def guarded(request: Request) -> Response:
            if ENTERED not in request.scope:
                for gate in gates:
                    request.scope[ENTERED] = await gate.enter(request)
            return await handle(request)

        return guarded
