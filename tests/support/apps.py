"""A service's real app on a real database, called in process; no broker and no port are needed."""

import base64
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from shared.http.keys import Role, generate_key, save_records
from shared.service import Service
from shared.settings import S


@dataclass
class App:
    """The service, and one key a role; keys with a scope are made for Jinan, Qingdao and the channel `website`."""

    service: Service
    keys: dict[str, str]

    def client(self, role: str | None) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.keys[role]}"} if role else {}
        transport = httpx.ASGITransport(self.service.app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers)


@asynccontextmanager
async def running_app(
    build: Callable[[S], Service], settings: type[S], url: str, folder: Path, **more: Any
) -> AsyncIterator[App]:
    keys: dict[str, str] = {}
    records = []
    for role, scope in [(role, None) for role in Role if role is not Role.branch] + [
        (Role.branch, "jinan"),
        (Role.branch, "qingdao"),
        (Role.front_line, "website"),
    ]:
        key, record = generate_key(role, f"test {role}", scope)
        keys[scope or str(role)] = key
        records.append(record)
    save_records(folder / "keys.json", records)
    service = build(
        settings(
            **{
                "database_url": SecretStr(url),
                "kafka_bootstrap_servers": "127.0.0.1:1",
                "keys_file": folder / "keys.json",
                **more,
            }
        )
    )
    service.compose(("api",))
    async with service.database.transaction() as transaction:
        service.clock.sync(await transaction.now())
    try:
        yield App(service, keys)
    finally:
        for database in (service.database, service.background):
            await database.close()


def random_key() -> SecretStr:
    return SecretStr(base64.b64encode(os.urandom(32)).decode())
