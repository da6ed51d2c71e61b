"""The other floor: the endpoint as a textbook writes it. One ORM session and one transaction a request, a ticket row
and an outbox row; no authentication, no idempotency, no rules, no encryption, no audit.

    python -m tests.bench.textbook PORT      # the address of an empty database comes on standard input
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from fastapi import FastAPI
from sqlalchemy import JSON, DateTime, Text, Uuid
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.bench.bare import Answer, Body, serve

# As many connections as its 32 clients need to share.
POOL = 20


class Base(DeclarativeBase):
    """The tables of the textbook."""


class Ticket(Base):
    __tablename__ = "tickets"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True, default=uuid4)
    number: Mapped[str] = mapped_column(Text, unique=True)
    status: Mapped[str] = mapped_column(Text)
    category: Mapped[str] = mapped_column(Text)
    phone: Mapped[str] = mapped_column(Text, index=True)
    content: Mapped[str] = mapped_column(Text)
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class OutboxRow(Base):
    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(primary_key=True)
    ticket_id: Mapped[UUID] = mapped_column(Uuid)
    type: Mapped[str] = mapped_column(Text)
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


def application(dsn: str) -> FastAPI:
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"), pool_size=POOL, max_overflow=0)
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/tickets", status_code=201)
    async def register(body: Body) -> Answer:
        now, details = datetime.now(UTC), body.model_dump(mode="json")
        async with sessions() as session, session.begin():
            ticket = _ticket(body, details, now)
            session.add(ticket)
            await session.flush()
            session.add(OutboxRow(ticket_id=ticket.id, type="ticket.registered", payload=details, created_at=now))
        links = {"self": f"/v1/tickets/{ticket.number}", "timeline": f"/v1/tickets/{ticket.number}/timeline"}
        return Answer(ticket_id=str(ticket.id), ticket_no=ticket.number, status=ticket.status, version=1, links=links)

    return app


def _ticket(body: Body, details: dict[str, Any], now: datetime) -> Ticket:
    return Ticket(
        number=f"T{now:%Y%m%d}-{uuid4().hex[:12]}",
        status="registered",
        category=body.category,
        phone=body.customer.phone,
        content=body.content,
        details=details,
        created_at=now,
    )


if __name__ == "__main__":
    serve(application(sys.stdin.read().strip()), int(sys.argv[1]))
