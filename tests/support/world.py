"""The four services in this process, on real databases and a real broker: all roles but the HTTP ports."""

import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import services.dispatch.app
import services.dispatch.settings
import services.intake.app
import services.intake.settings
import services.review.app
import services.review.settings
import services.sla.app
import services.sla.settings
from deploy.audit.__main__ import Options
from shared.database.sealer import Sealer
from shared.messaging.broker import BrokerAddress
from shared.messaging.erasure import Scrubber
from tests.support.apps import App, random_key, running_app
from tests.support.parts import Broker, Databases, beside

COMPOSED: dict[str, tuple[Any, Any]] = {
    "intake": (services.intake.app.build, services.intake.settings.Settings),
    "review": (services.review.app.build, services.review.settings.Settings),
    "dispatch": (services.dispatch.app.build, services.dispatch.settings.Settings),
    "sla": (services.sla.app.build, services.sla.settings.Settings),
}


@dataclass
class World:
    apps: dict[str, App]
    databases: dict[str, str]
    bootstrap: str

    @property
    def options(self) -> Options:
        """For an audit of this world. Its clients are few, so it may rest for long."""
        return Options(databases=self.databases, broker=BrokerAddress(self.bootstrap))

    async def post(self, service: str, role: str, path: str, body: Any = None, key: str | None = None) -> Any:
        async with self.apps[service].client(role) as client:
            answer = await client.post(path, json=body, headers={"Idempotency-Key": key} if key else {})
        assert answer.status_code < 300, answer.text
        return answer.json()

    async def disconnect(self) -> None:
        """Close every connection, so that the databases can be copied. The next use opens new ones."""
        for app in self.apps.values():
            service = app.service
            await service.leases.close()
            pools = [service.database, service.background, service._relay_database, service._health_database]
            pools += [job.__self__._database for job in service._jobs]  # type: ignore[attr-defined]
            for database in pools:
                await database.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Relays, consumers and jobs of all four; leaving stops them as a crash would."""
        works: list[Callable[[], Coroutine[Any, Any, None]]] = []
        for app in self.apps.values():
            service = app.service
            await service.relay.keep_partitions()
            work = [service.watch.run, service.relay.run, *service._jobs]
            work += [role(service._relay_database, service.leases).run for role in (Sealer, Scrubber)]
            if service.consumer is not None:
                work.append(service.consumer.run)
            works += [partial(_endless, each) for each in work]
        async with beside(works):
            yield


async def _endless(work: Any) -> None:
    await work()


@asynccontextmanager
async def running_world(databases: Databases, broker: Broker, folder: Path) -> AsyncIterator[World]:
    secrets = {"data_key": random_key(), "index_key": random_key()}
    async with contextlib.AsyncExitStack() as stack:
        apps: dict[str, App] = {}
        urls: dict[str, str] = {}
        for name, (build, settings) in COMPOSED.items():
            urls[name] = await databases.fresh(name)
            own = folder / name
            own.mkdir()
            apps[name] = await stack.enter_async_context(
                running_app(
                    build,
                    settings,
                    urls[name],
                    own,
                    kafka_bootstrap_servers=broker.bootstrap,
                    fetch_max_wait_ms=20,
                    **(secrets if name == "intake" else {}),
                )
            )
        world = World(apps, urls, broker.bootstrap)
        try:
            yield world
        finally:
            await world.disconnect()
