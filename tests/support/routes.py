"""The routes of an app as it really has them, each with the roles that it lets in."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from shared.http.keys import Role

# Why these are open: docs/decisions/0009.
OPEN = {
    *("/health/live", "/health/ready", "/health/serving"),
    *("/docs", "/docs/oauth2-redirect", "/openapi.json", "/static-offline-docs"),
}
SOME_REFERENCE = "T20261122-0000012"
SOME_ID = "019b0a51-7c80-7d35-9f11-3c2a8e64b7d0"


@dataclass(frozen=True)
class Route:
    """One method of one path. `roles` is empty for an open one."""

    method: str
    path: str
    roles: frozenset[Role]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def parameters(self) -> list[str]:
        return re.findall(r"\{(\w+)[^}]*\}", self.path)

    def url(self, **values: Any) -> str:
        """The path with these values; a parameter without one gets something that is well formed."""

        def value(match: re.Match[str]) -> str:
            name = match[1]
            return str(values.get(name, SOME_ID if name.endswith("_id") else SOME_REFERENCE))

        return re.sub(r"\{(\w+)[^}]*\}", value, self.path)


def allowed_roles(dependant: Dependant | None) -> frozenset[Role]:
    """The roles that the route's `allow(...)` lets in; empty when it has none."""
    if dependant is None:
        return frozenset()
    own = getattr(dependant.call, "roles", ())
    return frozenset(own).union(*(allowed_roles(inner) for inner in dependant.dependencies))


def routes(app: FastAPI) -> Iterator[Route]:
    for context in iter_route_contexts(app.routes):
        roles = allowed_roles(getattr(context, "dependant", None))
        for method in sorted((context.methods or {"GET"}) - {"HEAD", "OPTIONS"}):
            yield Route(method, context.path or "", roles)


def guarded(app: FastAPI) -> list[Route]:
    return [route for route in routes(app) if route.path not in OPEN]
