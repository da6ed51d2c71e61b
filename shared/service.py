"""A running service: its pools, its plumbing, its HTTP app and its background roles, started and stopped as one.

A service's `app.py` builds one with its own parts. Roles (`api`, `consumer`, `relay`, `jobs`) can run in one process or
apart; every role of a process ends together, and a role that fails ends the process, so that its supervisor sees it.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import uvicorn
from aiokafka import AIOKafkaConsumer
from fastapi import APIRouter, Depends, FastAPI
from fastapi_offline import FastAPIOffline
from sqlalchemy import Table
from starlette.responses import PlainTextResponse

from shared.clock import Clock
from shared.database.audit_watch import AuditWatch
from shared.database.engine import Database
from shared.database.leases import Leases
from shared.database.sealer import Sealer
from shared.errors import Transient
from shared.http import problems
from shared.http.auth import Door, allow
from shared.http.document import describe
from shared.http.health import Check, Checkup, health_routes, metrics_route
from shared.http.key_store import KeyStore
from shared.http.key_uses import KeyUses, keys_route
from shared.http.keys import Role
from shared.http.limits import Guard, Limits, allow_files
from shared.http.operations import Operated, operations_routes
from shared.http.protocol import bounded
from shared.http.rate import RateLimits
from shared.http.tokens import tokens_of
from shared.messaging import inbox, outbox, pauses
from shared.messaging.consumer import Consumer
from shared.messaging.erasure import Scrubber
from shared.messaging.log_watch import LogWatch
from shared.messaging.pace import Pace
from shared.messaging.projection import Projection
from shared.messaging.relay import Relay
from shared.operations.rebuild import ReadState, Rebuilding
from shared.settings import ServiceSettings
from shared.telemetry import metrics

log = logging.getLogger(__name__)

ROLES = ("api", "consumer", "relay", "jobs")
CLOCK_SYNC_SECONDS = 10.0
BACKGROUND_POOL_SIZE = 2
# The relay, its house-keeping, the sealing of the audit trail and erasure.
RELAY_POOL_SIZE = 4
# One for each check that asks the database, so that one that hangs is not taken for the others.
HEALTH_POOL_SIZE = 3
HEALTH_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 30

Job = Callable[[], Awaitable[None]]


class RoleEnded(Exception):
    """A role that should run for ever came to an end without an error of its own."""


async def _for_ever(work: Job) -> None:
    """Run a role; any end but our own cancelling is a failure. Libraries have let a cancelling of theirs leak out."""
    try:
        await work()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise RoleEnded(f"{work.__qualname__} was cancelled from within") from None
    raise RoleEnded(f"{work.__qualname__} came to its end")


class Server(uvicorn.Server):
    """uvicorn without its own signal handling: the service stops all its roles together."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Service:
    """The composition of one service. `run()` serves until a signal or a failed role.

    `streamed` maps the paths that read their body as it comes to how many bytes it may have.
    """

    def __init__(
        self,
        name: str,
        settings: ServiceSettings,
        outbox_table: Table,
        *,
        about: str,
        streamed: Mapping[str, int] | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.clock = Clock(settings.time_scale, settings.time_origin)
        self._outbox = outbox_table
        url = settings.database_url.get_secret_value()
        self.database = Database(url, pool_size=settings.database_pool_size)
        self.background = Database(url, pool_size=BACKGROUND_POOL_SIZE)
        self._relay_database = Database(url, pool_size=RELAY_POOL_SIZE)
        # Its own, so that a busy consumer cannot make readiness wait.
        self._health_database = Database(url, pool_size=HEALTH_POOL_SIZE)
        self.leases = Leases(url)
        self._broker = settings.broker()
        self.watch = LogWatch(self._broker)
        self.relay = Relay(
            name,
            self._relay_database,
            self.leases,
            self._broker,
            retention_days=settings.outbox_retention_days,
        )
        for database in (self.database, self.background):
            database.after_publish(self.relay.wake)
        self.consumer: Consumer[Any] | None = None
        self.checks: dict[str, Check] = {"database": self._check_database}
        self._checkup = Checkup(self.checks)
        self.warnings: list[Callable[[], list[str]]] = []
        self._databases = (self.database, self.background, self._relay_database, self._health_database)
        self._jobs: list[Job] = []
        self._stuck = inbox.Stuck(0, 0, 0)
        self._read_state: ReadState | None = None
        self._paused: dict[str, pauses.Pause] = {}
        self.warnings.append(self._warn_of_stuck)
        self._stop = asyncio.Event()
        # The documentation page brings its own scripts: operators' networks often reach no CDN.
        self.app: FastAPI = FastAPIOffline(
            title=f"Gongdan {name}",
            summary=about,
            version="1.0.0",
            openapi_url="/openapi.json",
            docs_url="/docs",
            redoc_url=None,
            # We have metrics and traces of our own; asking OpenTelemetry whether it is set up cost 4 µs a request.
            telemetry={"tracing": False, "metrics": False, "logs": False},
            responses={
                code: {"model": problems.Problem, "content": {problems.MEDIA_TYPE: {}}}
                for code in (401, 403, 422, 429, 503)
            },
        )
        problems.install(self.app)
        describe(self.app)
        self.limits = Limits.of(settings, streamed or {})
        self.app.add_middleware(Guard, limits=self.limits)
        self.app.state.rates = RateLimits(settings.rate_limit_per_second, settings.rate_limit_burst)
        keys = KeyStore(settings.keys_file)
        self.warnings.append(keys.warnings)
        self._key_uses = KeyUses(self.background)
        self._tokens = tokens_of(settings)
        if self._tokens is not None:
            self.warnings.append(self._tokens.keys.warnings)
        self.app.state.door = Door(keys, self._tokens, self._key_uses.note)
        self.routes(keys_route(keys, self._key_uses))

    # ---- composition ---------------------------------------------------------------------------------------------

    def routes(self, *routers: APIRouter) -> None:
        for router in routers:
            self.app.include_router(router)

    def consume(self, projection: Projection[Any], pace: Pace) -> None:
        self.consumer = Consumer(
            self.name,
            projection,
            self.background,
            self.leases,
            self.watch,
            self._broker,
            fetch_max_wait_ms=self.settings.fetch_max_wait_ms,
            pace=pace,
        )

    def rebuilds(self, state: ReadState) -> None:
        """Let operators build this read state again from the events."""
        self._read_state = state

    def job(self, job: Job) -> None:
        """Add timed work, run by the role `jobs`; it goes on until cancelled."""
        self._jobs.append(job)

    # ---- running -------------------------------------------------------------------------------------------------

    async def run(self, roles: Sequence[str] = ROLES) -> None:
        """Serve the roles until SIGTERM or SIGINT; raises when a role fails."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self.compose(roles)
        background: list[Callable[[], Awaitable[None]]] = [self._sync_clock, self._measure_health, self.watch.run]
        if {"api", "relay"} & set(roles):
            background.append(self.relay.watch_backlog)
        if "relay" in roles:
            background += [self.relay.run, Sealer(self._relay_database, self.leases).run]
            background.append(Scrubber(self._relay_database, self.leases).run)
            background.append(AuditWatch(self._relay_database, self.leases).run)
        if "consumer" in roles and self.consumer is not None:
            background.append(self.consumer.run)
        if "jobs" in roles:
            background += self._jobs
        if "api" in roles:
            background.append(self._key_uses.run)
            if self._tokens is not None:
                background.append(self._tokens.keys.run)
        await self._first_sync()
        server = self._server() if "api" in roles else None
        try:
            await self._serve(server, background)
        finally:
            for closing in (self.leases, *self._databases):
                with contextlib.suppress(Exception):
                    await closing.close()

    async def _serve(self, server: Server | None, background: list[Callable[[], Awaitable[None]]]) -> None:
        tasks: list[asyncio.Future[Any]] = [
            asyncio.create_task(_for_ever(work), name=work.__qualname__) for work in background
        ]
        serving = asyncio.ensure_future(server.serve()) if server is not None else None
        stopping: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
        watched: list[asyncio.Future[Any]] = [*tasks, stopping, *([serving] if serving else [])]
        done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        if server is not None and serving is not None:
            server.should_exit = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(serving), self.settings.drain_seconds)
        for task in tasks:
            task.cancel()
        stopping.cancel()
        await asyncio.wait([*tasks, stopping], timeout=self.settings.drain_seconds)
        for task in done:
            if task is not stopping and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def _server(self) -> Server:
        allow_files(self.limits)
        return Server(
            uvicorn.Config(
                self.app,
                host=self.settings.http_host,
                port=self.settings.http_port,
                loop="none",
                http=bounded(self.limits),
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=int(self.settings.drain_seconds),
                backlog=1024,
            )
        )

    async def _first_sync(self) -> None:
        """Wait for the database before anything is timed: business time is its time."""
        delay = 0.2
        while True:
            try:
                await self._read_clock()
                await self.relay.keep_partitions()
                return
            except Transient:
                log.warning("waiting for the database")
            await asyncio.sleep(delay)
            delay = min(delay * 2, 2.0)

    async def _sync_clock(self) -> None:
        while True:
            await asyncio.sleep(CLOCK_SYNC_SECONDS)
            with contextlib.suppress(Transient):
                await self._read_clock()

    async def _read_clock(self) -> None:
        async with self._health_database.transaction() as transaction:
            self.clock.sync(await transaction.now())

    # ---- health --------------------------------------------------------------------------------------------------

    def compose(self, roles: Sequence[str]) -> None:
        """Add the health routes with the checks of these roles."""
        if "consumer" in roles or "relay" in roles:
            self.checks["broker"] = self._check_broker
        if "relay" in roles:
            self.checks["outbox"] = self._check_outbox
        if "consumer" in roles and self.consumer is not None:
            self.checks["consumer"] = self._check_consumer
        if self.consumer is not None:
            self.app.include_router(operations_routes(self._operated(self.consumer)))
        self.app.include_router(health_routes(self._checkup, lambda: [text for fn in self.warnings for text in fn()]))
        self.app.add_api_route(
            "/metrics",
            metrics_route,
            dependencies=[Depends(allow(Role.ops, Role.supervisor))],
            tags=["health"],
            summary="Metrics for Prometheus",
            response_class=PlainTextResponse,
        )

    async def _measure_health(self) -> None:
        """Show in the metrics what readiness says, so that alarms and probes never disagree."""
        while True:
            for part, reason in (await self._checkup.answers()).items():
                metrics.part_ready.labels(part).set(1 if reason is None else 0)
            await asyncio.sleep(HEALTH_SECONDS)

    def _operated(self, consumer: Consumer[Any]) -> Operated:
        tables = self._outbox.metadata.tables.values()
        tickets = next(table for table in tables if "ticket_no" in table.c and table.c.ticket_no.unique)
        rebuilding = None
        if self._read_state is not None:
            url = self.settings.database_url.get_secret_value()
            rebuilding = Rebuilding(self.name, self.database, url, self._outbox, self._read_state, self._reader)
        return Operated(self.name, self.database, self.watch, consumer.applier, tickets, rebuilding)

    def _reader(self) -> AIOKafkaConsumer:
        """A client that reads the log beside the consumer, from its beginning."""
        return AIOKafkaConsumer(
            **self._broker.options(),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=self.settings.fetch_max_wait_ms,
        )

    def _warn_of_stuck(self) -> list[str]:
        """Readiness warns of what only a person can set right; it does not make the service unready."""
        found = []
        if self._stuck.dead:
            found.append(f"{self._stuck.dead} dead letters wait for a person")
        if self._stuck.parked_long:
            found.append(f"{self._stuck.parked_long} events have waited for another one for over 10 minutes")
        for each in self._paused.values():
            if each.paused_by != pauses.STOPPED_BY:
                what = "every topic" if each.topic == pauses.ALL else each.topic
                found.append(f"{each.paused_by} paused the reading of {what}: {each.reason}")
        return found

    async def _check_database(self) -> str | None:
        try:
            await self._read_clock()
        except Transient:
            return "the database does not answer"
        return None

    async def _check_broker(self) -> str | None:
        return None if self.watch.reachable else self.watch.refused or "the broker does not answer"

    async def _check_outbox(self) -> str | None:
        try:
            figures = await self._health_database.read(lambda connection: outbox.backlog(connection, 100_000))
        except Transient:
            return "unknown: the database does not answer"
        if figures.oldest_seconds > self.settings.ready_outbox_age_seconds:
            return f"{figures.waiting} events wait, the oldest for {figures.oldest_seconds:.0f} s"
        return None

    async def _check_consumer(self) -> str | None:
        consumer = self.consumer
        if consumer is None:
            return None
        try:
            self._stuck = await self._health_database.read(inbox.stuck)
            self._paused = await self._health_database.read(pauses.pauses)
        except Transient:
            return "unknown: the database does not answer"
        metrics.parked_now.set(self._stuck.parked)
        metrics.parked_long.set(self._stuck.parked_long)
        metrics.dead_letters_open.set(self._stuck.dead)
        if consumer.failure is not None:
            return consumer.failure
        if consumer.lag > self.settings.ready_lag_limit:
            return f"{consumer.lag} records wait to be read"
        return None
