"""Rotation seen from outside, and the last use of keys, on a real database."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uvicorn
from pydantic import SecretStr
from sqlalchemy import text

from services.dispatch.app import build as build_dispatch
from services.dispatch.settings import Settings as DispatchSettings
from services.intake.app import build as build_intake
from services.intake.settings import Settings as IntakeSettings
from services.review.app import build as build_review
from services.review.settings import Settings as ReviewSettings
from shared.database.engine import Database
from shared.errors import Transient
from shared.http.key_store import RECHECK_SECONDS
from shared.http.key_uses import KeyUses
from shared.http.keys import (
    Role,
    add_key,
    edited_records,
    generate_key,
    load_records,
    revoke_key,
    rotate_key,
    save_records,
)
from shared.service import Server
from tests.support.apps import App, random_key, running_app
from tests.support.issuer import AUDIENCE, Issuer
from tests.support.parts import Databases, free_port
from tests.support.tickets import complaint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("intake-keys")


@pytest_asyncio.fixture(scope="module")
async def app(databases: Databases, folder: Path) -> AsyncIterator[App]:
    url = await databases.fresh("intake")
    async with running_app(
        build_intake, IntakeSettings, url, folder, data_key=random_key(), index_key=random_key()
    ) as running:
        yield running


def calling(app: App, key: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app.service.app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://s", headers={"Authorization": f"Bearer {key}"})


async def test_a_retry_under_the_rotated_key_gets_the_first_answer(app: App, folder: Path) -> None:
    with edited_records(folder / "keys.json") as records:
        old = add_key(records, Role.front_line, "CRM", client="crm")
        stranger = add_key(records, Role.front_line, "another CRM")
        new = rotate_key(records, old.split("_")[1])
    await asyncio.sleep(RECHECK_SECONDS + 0.1)
    body, headers = complaint(), {"Idempotency-Key": "rotated"}
    change, again = {"reason": "已解决"}, {"Idempotency-Key": "rotated-too"}
    async with calling(app, old) as first, calling(app, new) as second, calling(app, stranger) as other:
        answer = await first.post("/v1/tickets", json=body, headers=headers)
        repeated = await second.post("/v1/tickets", json=body, headers=headers)
        theirs = await other.post("/v1/tickets", json=body, headers=headers)
        assert (answer.status_code, repeated.content) == (201, answer.content)
        assert theirs.json()["ticket_id"] != answer.json()["ticket_id"]
        changed = await second.post("/v1/tickets", json=body | {"content": "另一个投诉,请尽快处理。"}, headers=headers)
        assert changed.json()["code"] == "idempotency_key_reused"
        path = f"{answer.json()['links']['self']}/withdraw"
        withdrawn = await first.post(path, json=change, headers=again)
        assert withdrawn.status_code == 200
        assert (await second.post(path, json=change, headers=again)).content == withdrawn.content
        assert (await other.post(path, json=change, headers=again)).status_code == 409


async def test_both_keys_at_once_make_one_ticket(app: App, folder: Path) -> None:
    with edited_records(folder / "keys.json") as records:
        old = add_key(records, Role.front_line, "twins")
        new = rotate_key(records, old.split("_")[1])
    await asyncio.sleep(RECHECK_SECONDS + 0.1)
    body = complaint()
    async with calling(app, old) as first, calling(app, new) as second:
        answers = await asyncio.gather(
            *(
                client.post("/v1/tickets", json=body, headers={"Idempotency-Key": "twins"})
                for client in (first, second) * 20
            )
        )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1


async def database_now(app: App) -> datetime:
    async with app.service.database.transaction() as transaction:
        return (await transaction.now()).astimezone(UTC)


async def listed(app: App) -> dict[str, Any]:
    async with app.client("ops") as ops:
        answer = await ops.get("/v1/ops/keys")
    assert answer.status_code == 200, answer.text
    return {item["key_id"]: item for item in answer.json()["items"]}


async def test_ops_sees_every_key_with_its_last_use_here_and_no_hash(app: App, folder: Path) -> None:
    with edited_records(folder / "keys.json") as records:
        unused = add_key(records, Role.branch, "寿光 desk", "weifang", "weifang-desk")
        gone = add_key(records, Role.reviewer, "gone")
        revoke_key(records, gone.split("_")[1])
    await asyncio.sleep(RECHECK_SECONDS + 0.1)
    before = await database_now(app)
    async with app.client("supervisor") as supervisor, app.client("jinan") as branch, calling(app, gone) as former:
        assert (await supervisor.get("/v1/tickets")).status_code == 200
        # Forbidden, but it was the branch's key all the same.
        assert (await branch.get("/v1/ops/keys")).status_code == 403
        assert (await former.get("/v1/tickets")).status_code == 401
    items = await listed(app)
    after = await database_now(app)
    assert set(items) == {record.key_id for record in load_records(folder / "keys.json")}
    for name in ("supervisor", "jinan", "ops"):
        used = datetime.fromisoformat(items[app.keys[name].split("_")[1]]["last_used_at"])
        assert before - timedelta(seconds=1) <= used <= after, name
    new = items[unused.split("_")[1]]
    assert {name: new[name] for name in ("client", "role", "scope", "name", "state", "last_used_at")} == {
        "client": "weifang-desk",
        "role": "branch",
        "scope": "weifang",
        "name": "寿光 desk",
        "state": "live",
        "last_used_at": None,
    }
    dead = items[gone.split("_")[1]]
    assert (dead["state"], dead["last_used_at"]) == ("revoked", None)
    shown = str(items)
    for record in load_records(folder / "keys.json"):
        assert record.sha256 not in shown


async def test_the_last_use_is_stored_at_the_latest_when_the_service_stops(app: App) -> None:
    uses = KeyUses(app.service.database)
    running = asyncio.create_task(uses.run())
    await asyncio.sleep(0)
    uses.note("kstopping")
    running.cancel()
    await asyncio.wait([running])

    async def read(connection: Any) -> int:
        rows = await connection.execute(text("SELECT count(*) FROM key_uses WHERE key_id = 'kstopping'"))
        return int(rows.scalar_one())

    assert await app.service.database.read(read) == 1


async def test_of_two_processes_the_later_use_counts(app: App) -> None:
    early, late = KeyUses(app.service.database), KeyUses(app.service.database)
    early.note("kshared")
    await asyncio.sleep(0.2)
    late.note("kshared")
    await late.store()
    stored = (await late.last())["kshared"]
    await early.store()
    assert (await early.last())["kshared"] == stored


async def test_while_the_database_is_away_no_use_is_forgotten(app: App) -> None:
    away = Database("postgresql+asyncpg://nobody:x@127.0.0.1:1/none", pool_size=1)
    uses = KeyUses(away)
    uses.note("kpatient")
    for _ in range(2):
        with pytest.raises(Transient):
            await uses.store()
    assert list(uses._used) == ["kpatient"]
    await away.close()


async def test_the_keys_are_listed_by_every_service(databases: Databases, tmp_path: Path) -> None:
    url = await databases.fresh("dispatch")
    async with running_app(build_dispatch, DispatchSettings, url, tmp_path) as running:
        items = await listed(running)
    assert len(items) == len(load_records(tmp_path / "keys.json"))


async def command(*words: str, **environment: str) -> tuple[int | None, str, str]:
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shared.http.keys", *words),
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await running.communicate()
    return running.returncode, out.decode(), err.decode()


async def test_the_command_asks_running_services_for_the_last_use(app: App, folder: Path) -> None:
    port = free_port()
    config = uvicorn.Config(app.service.app, port=port, lifespan="off", log_config=None)
    server = Server(config)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    url, ops = f"http://127.0.0.1:{port}", app.keys["ops"]
    words = ("list", "--file", str(folder / "keys.json"), "--last-used-from", url)
    code, out, err = await command(*words, f"{url}/", GONGDAN_OPS_KEY=ops)
    assert code == 0, err
    today = (await database_now(app)).date().isoformat()
    lines = {line.split()[0]: line.split() for line in out.splitlines()}
    assert lines[ops.split("_")[1]][7].startswith(today)
    assert lines[app.keys["callback"].split("_")[1]][7] == "-"
    for given, complaint_of_it in (
        ({}, "GONGDAN_OPS_KEY must hold"),
        ({"GONGDAN_OPS_KEY": app.keys["reviewer"]}, "does not tell"),
    ):
        code, out, err = await command(*words, **given)
        assert (code, out) == (2, "")
        assert complaint_of_it in err
        assert app.keys["reviewer"] not in err
    server.should_exit = True
    await serving
    code, _, err = await command(*words, GONGDAN_OPS_KEY=ops)
    assert (code, "does not tell" in err) == (2, True)


async def test_a_running_service_has_the_issuers_keys_early_and_stores_uses_when_it_ends(
    databases: Databases, tmp_path: Path, issuer: Issuer
) -> None:
    key, record = generate_key(Role.reviewer, "desk")
    save_records(tmp_path / "keys.json", [record])
    url, port = await databases.fresh("review"), free_port()
    service = build_review(
        ReviewSettings(
            database_url=SecretStr(url),
            kafka_bootstrap_servers="127.0.0.1:1",
            keys_file=tmp_path / "keys.json",
            http_port=port,
            oidc_issuer=issuer.url,
            oidc_audience=AUDIENCE,
        )
    )
    running = asyncio.create_task(service.run(("api",)))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client, asyncio.timeout(20):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/health/live")).status_code == 200 and issuer.asked:
                    break
            await asyncio.sleep(0.05)
        for credentials in (issuer.token(gongdan_role="reviewer"), key):
            answer = await client.get("/v1/reviews", headers={"Authorization": f"Bearer {credentials}"})
            assert answer.status_code == 200, answer.text
        assert issuer.asked == 1
        service._stop.set()
        await running
    database = Database(url, pool_size=1)

    async def read(connection: Any) -> list[str]:
        return [row[0] for row in await connection.execute(text("SELECT key_id FROM key_uses"))]

    # A token is nobody's key: of it nothing is kept.
    assert await database.read(read) == [record.key_id]
    await database.close()
