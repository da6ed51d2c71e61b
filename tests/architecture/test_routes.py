"""Every route asks who is calling, except the few that are open on purpose."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from shared.http.keys import Role
from shared.http.rate import RateLimits
from tests.architecture.services import SERVICES, built

# Why these are open: docs/decisions/0009.
OPEN = {
    *("/health/live", "/health/ready"),
    *("/docs", "/docs/oauth2-redirect", "/openapi.json", "/static-offline-docs"),
}
SOME_REFERENCE = "T20261122-0000012"
SOME_ID = "019b0a51-7c80-7d35-9f11-3c2a8e64b7d0"


def routes(app: FastAPI) -> Iterator[tuple[str, set[str], Dependant | None]]:
    for context in iter_route_contexts(app.routes):
        yield context.path or "", context.methods or set(), getattr(context, "dependant", None)


def allowed_roles(dependant: Dependant | None) -> set[Role]:
    """The roles that the route's `allow(...)` lets in; empty when it has none."""
    if dependant is None:
        return set()
    own = getattr(dependant.call, "roles", ())
    return set(own).union(*(allowed_roles(inner) for inner in dependant.dependencies))


@pytest.fixture(params=SERVICES)
def app(request: pytest.FixtureRequest, tmp_path: Path) -> FastAPI:
    return built(request.param, tmp_path).app


def test_every_route_depends_on_allow(app: FastAPI) -> None:
    found = {path: allowed_roles(dependant) for path, _, dependant in routes(app)}
    assert OPEN <= found.keys()
    assert len(found) > len(OPEN) + 1
    for path, roles in found.items():
        assert bool(roles) == (path not in OPEN), path


async def test_without_a_key_the_answer_is_401(app: FastAPI) -> None:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        for path, methods, _ in routes(app):
            if path in OPEN:
                continue
            url = re.sub(r"\{\w+_id[^}]*\}", SOME_ID, path)
            url = re.sub(r"\{[^}]+\}", SOME_REFERENCE, url)
            for method in methods - {"HEAD", "OPTIONS"}:
                # So many refusals from one address would else become 429.
                app.state.rates = RateLimits(0)
                for headers in ({}, {"Authorization": "Bearer gd_knobody_nothing"}, {"Authorization": "Basic eDp5"}):
                    answer = await client.request(method, url, headers=headers)
                    assert answer.status_code == 401, f"{method} {path}"
                    assert answer.json()["code"] == "not_authenticated"
                    assert answer.headers["www-authenticate"] == "Bearer"


async def test_open_routes_tell_nothing_but_health_and_the_api(app: FastAPI) -> None:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        live = await client.get("/health/live")
        described = await client.get("/openapi.json")
    assert live.json() == {"status": "alive"}
    assert described.status_code == 200
    assert all("example.invalid" not in path for path in described.json()["paths"])


def test_metrics_are_for_those_who_run_it(app: FastAPI) -> None:
    found = {path: allowed_roles(dependant) for path, _, dependant in routes(app)}
    assert found["/metrics"] == {Role.ops, Role.supervisor}


def test_a_branch_reaches_nothing_of_review(tmp_path: Path) -> None:
    for path, _, dependant in routes(built("review", tmp_path).app):
        assert Role.branch not in allowed_roles(dependant), path
