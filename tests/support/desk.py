"""The operators' routes over a bench's database, called in process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from services.review.tables import reviews
from shared.http import problems
from shared.http.auth import Door
from shared.http.key_store import KeyStore
from shared.http.keys import Role, generate_key, save_records
from shared.http.operations import Operated, operations_routes
from shared.http.rate import RateLimits
from shared.messaging.application import Applier
from shared.messaging.log_watch import LogWatch
from tests.support.messaging import Bench, Recorder


@dataclass
class OpsDesk:
    """Clients by role, and the reader that redrives: `repaired` is what a corrected version of the service would be."""

    app: FastAPI
    keys: dict[Role, str]
    recorder: Recorder

    def client(self, role: Role = Role.ops) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {self.keys[role]}"}
        return httpx.AsyncClient(transport=transport, base_url="http://review/v1/ops", headers=headers)

    async def get(self, path: str, **query: Any) -> Any:
        async with self.client() as client:
            answer = await client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, **body: Any) -> Any:
        async with self.client() as client:
            answer = await client.post(path, json={"reason": "a test", **body})
        assert answer.status_code == 200, answer.text
        return answer.json()


@asynccontextmanager
async def ops_desk(bench: Bench, watch: LogWatch, folder: Path) -> AsyncIterator[OpsDesk]:
    made = {role: generate_key(role, f"test {role}") for role in Role}
    save_records(folder / "keys.json", [record for _, record in made.values()])
    recorder = Recorder(repaired=True)
    app = FastAPI()
    problems.install(app)
    app.state.door = Door(KeyStore(folder / "keys.json"), None, lambda key_id: None)
    app.state.rates = RateLimits(0)
    applier = Applier("review", recorder, bench.database)
    app.include_router(operations_routes(Operated("review", bench.database, watch, applier, reviews)))
    yield OpsDesk(app, {role: key for role, (key, _) in made.items()}, recorder)


async def actions(bench: Bench, subject: object) -> list[str]:
    """What operators did to this subject, by the audit trail."""
    rows = await bench.query(
        "SELECT action FROM audit_trail WHERE subject = :s AND actor LIKE 'ops:%' ORDER BY id", s=str(subject)
    )
    return [row[0] for row in rows]
