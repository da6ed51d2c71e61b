"""Readiness while something hangs: it answers in time, and blames nobody else."""

import asyncio
import time
from pathlib import Path
from typing import Any

from sqlalchemy import text

from shared.http.health import CHECK_SECONDS, FRESH_SECONDS, Checkup
from tests.support.apps import App
from tests.support.parts import Databases
from tests.support.whole import running_service

HANGS = f"no answer within {CHECK_SECONDS:.0f} s"
# Its own work beside the check that hangs.
SOME_SECONDS = 2.0


async def readiness(app: App) -> dict[str, Any]:
    async with app.client(None) as client:
        body: dict[str, Any] = (await client.get("/health/ready")).json()
    return body


async def test_a_locked_table_holds_readiness_up_for_three_seconds_and_no_longer(
    databases: Databases, tmp_path: Path
) -> None:
    async with running_service(databases, tmp_path, "sla") as app:
        async with app.service.database.transaction() as transaction:
            for table in ("clocks", "outbox", "dead_letters"):
                await transaction.connection.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
            app.service.checks["outbox"] = app.service._check_outbox
            app.service.checks["consumer"] = app.service._check_consumer
            began = time.monotonic()
            found = await readiness(app)
            took = time.monotonic() - began
        assert found["status"] == "not_ready"
        assert found["checks"] == {"database": "ok", "outbox": HANGS, "consumer": HANGS, "sweep": HANGS}
        assert CHECK_SECONDS <= took < CHECK_SECONDS + SOME_SECONDS
        await asyncio.sleep(FRESH_SECONDS)
        assert (await readiness(app))["checks"] == dict.fromkeys(found["checks"], "ok")


async def test_a_load_balancer_hears_of_the_database_only(databases: Databases, tmp_path: Path) -> None:
    async with running_service(databases, tmp_path, "review") as app, app.client(None) as client:
        app.service.checks["broker"] = app.service._check_broker
        assert (await client.get("/health/ready")).status_code == 503
        serving = await client.get("/health/serving")
    assert (serving.status_code, serving.json()["checks"]) == (200, {"database": "ok"})


async def test_checks_are_asked_side_by_side() -> None:
    async def slow() -> str | None:
        await asyncio.sleep(0.2)
        return "slow"

    began = time.monotonic()
    checkup = Checkup({str(number): slow for number in range(10)})
    assert await checkup.answers() == {str(number): "slow" for number in range(10)}
    assert time.monotonic() - began < 1.0


async def test_however_many_ask_the_parts_are_asked_once() -> None:
    asked = 0

    async def counts() -> str | None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.05)
        return None

    checkup = Checkup({"part": counts})
    assert await asyncio.gather(*(checkup.answers() for _ in range(100))) == [{"part": None}] * 100
    assert asked == 1
