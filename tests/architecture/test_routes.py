"""Every route asks who is calling, except the few that are open on purpose."""

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from shared.http.keys import Role
from tests.architecture.services import SERVICES, built
from tests.support.routes import OPEN, guarded, routes


@pytest.fixture(params=SERVICES)
def app(request: pytest.FixtureRequest, tmp_path: Path) -> FastAPI:
    return built(request.param, tmp_path).app


def test_every_route_depends_on_allow(app: FastAPI) -> None:
    found = {route.path: route.roles for route in routes(app)}
    assert OPEN <= found.keys()
    assert len(found) > len(OPEN) + 1
    for path, roles in found.items():
        assert bool(roles) == (path not in OPEN), path


def test_the_documentation_names_both_ways_in(app: FastAPI) -> None:
    described = app.openapi()
    schemes = described["components"]["securitySchemes"]
    assert {name: (scheme["type"], scheme["scheme"]) for name, scheme in schemes.items()} == {
        "ApiKey": ("http", "bearer"),
        "Token": ("http", "bearer"),
    }
    for route in guarded(app):
        security = described["paths"][route.path][route.method.lower()]["security"]
        assert sorted(name for either in security for name in either) == ["ApiKey", "Token"], str(route)
        assert all(len(either) == 1 for either in security), "one of the two is enough"


async def test_open_routes_tell_nothing_but_health_and_the_api(app: FastAPI) -> None:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        live = await client.get("/health/live")
        described = await client.get("/openapi.json")
    assert live.json() == {"status": "alive"}
    assert described.status_code == 200
    assert all("example.invalid" not in path for path in described.json()["paths"])


def test_metrics_are_for_those_who_run_it(app: FastAPI) -> None:
    found = {route.path: route.roles for route in routes(app)}
    assert found["/metrics"] == {Role.ops, Role.supervisor}


def test_a_branch_reaches_nothing_of_review(tmp_path: Path) -> None:
    for route in routes(built("review", tmp_path).app):
        assert Role.branch not in route.roles, str(route)
