"""A service of people behind HTTP, for integration tests; its rows come through its own projection."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import text

from services.dispatch import usecases as dispatch_usecases
from services.dispatch.app import build as build_dispatch
from services.dispatch.consumers import DispatchProjection
from services.dispatch.settings import Settings as DispatchSettings
from shared.calendar import WorkingCalendar, package_days
from shared.contracts.envelope import Envelope
from shared.contracts.review import ReviewApproved
from shared.contracts.ticket import Basis
from shared.ids import new_id
from shared.messaging.events import Event, Record
from tests.support.apps import App, running_app
from tests.support.snapshots import PACK, snapshot

BASIS = Basis(pack=PACK.id, version=PACK.version)
NOBODYS = "T20261122-9999999"

_numbers = itertools.count(1)


def ticket_number() -> str:
    return f"T20261122-{next(_numbers):07d}"


def event(data: Any, subject: UUID, publisher: str) -> Event:
    envelope = Envelope(new_id(), f"/gongdan/{publisher}", data.TYPE, subject, datetime.now(UTC), 1)
    return Event(envelope, data, Record(data.TOPIC, 0, 0, None, (), b""))


@dataclass
class Site:
    """An app and the projection that fills its `table`."""

    app: App
    projection: Any
    table: str

    def client(self, role: str | None) -> httpx.AsyncClient:
        return self.app.client(role)

    async def apply(self, *events: Event) -> None:
        async with self.app.service.database.transaction() as transaction:
            state = await self.projection.load(transaction, events)
            for each in events:
                self.projection.apply(state, each)
            await self.projection.save(transaction, state)

    async def post(self, role: str, path: str, body: Any = None, key: str | None = None) -> httpx.Response:
        async with self.client(role) as client:
            return await client.post(path, json=body, headers={"Idempotency-Key": key} if key else {})

    async def get(self, role: str, path: str) -> httpx.Response:
        async with self.client(role) as client:
            return await client.get(path)

    async def published(self, number: str) -> list[str]:
        """The types in the outbox of this ticket on the service's own topic, in their order."""

        async def run(connection: Any) -> list[str]:
            rows = await connection.execute(
                text(
                    "SELECT type FROM outbox WHERE topic NOT LIKE 'gongdan.dispatch.%' AND"
                    f" subject = (SELECT ticket_id FROM {self.table} WHERE ticket_no = :number) ORDER BY id"
                ),
                {"number": number},
            )
            return [row[0] for row in rows]

        return await self.app.service.database.read(run)

    async def execute(self, sql: str, **values: Any) -> None:
        async with self.app.service.database.transaction() as transaction:
            await transaction.connection.execute(text(sql), values)


@asynccontextmanager
async def dispatch_site(url: str, folder: Path) -> AsyncIterator[Site]:
    days = {day: worked for day, worked, _ in package_days(2025, 2026)}
    calendar = WorkingCalendar(days, PACK.working_hours, PACK.tz, max(days))
    async with running_app(build_dispatch, DispatchSettings, url, folder) as app:
        desk = dispatch_usecases.Desk(PACK, calendar, app.service.clock, "http://intake", "http://dispatch")
        yield Site(app, DispatchProjection(desk), "work_orders")


async def order(site: Site, **changes: Any) -> tuple[str, UUID]:
    """An approved ticket that the rules sent to Jinan: its number and id at dispatch."""
    number, ticket_id = ticket_number(), new_id()
    ticket = snapshot(ticket_no=number, **changes)
    data = ReviewApproved(ticket=ticket, round=1, automatic=True, basis=BASIS, actor="rules")
    await site.apply(event(data, ticket_id, "review"))
    return number, ticket_id


def refusal(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def pointers(answer: httpx.Response) -> list[str]:
    return [error["pointer"] for error in answer.json()["errors"]]
