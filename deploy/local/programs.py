"""The programs of a one-machine run, as data: commands, environments, and when each counts as ready.

Secrets go to the services in their environment or in files, never on a command line.
"""

import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from deploy.kafka.access import TOPICS, service_principal
from deploy.kafka.certificates import AUTHORITY
from deploy.local.postgres import database_name
from deploy.local.state import SERVICES, BusinessClock, Secrets
from deploy.local.supervisor import Program, port_open
from shared.messaging.broker import BrokerAddress

HOST = "127.0.0.1"
MIGRATION_SECONDS = 120.0
TOPICS_SECONDS = 60.0
SERVICE_READY_SECONDS = 60.0
HEALTH_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True)
class Layout:
    """Where everything is in one run. `ports` has an entry for each service, `postgres` and `kafka`: where it listens.
    `doors` are the ports at which the others find it, where that is another one (a proxy stands in between).

    `secured`: the broker takes SASL_SSL with SCRAM only. It has a data folder of its own, because a log that was
    formatted without users cannot be given any.
    """

    data: Path
    ports: dict[str, int]
    pack: str
    secrets: Secrets = field(repr=False)
    clock: BusinessClock
    secured: bool = False
    doors: Mapping[str, int] = field(default_factory=dict)

    def door(self, name: str) -> int:
        return self.doors.get(name, self.ports[name])

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self.door('kafka')}"

    @property
    def kafka_data(self) -> Path:
        return self.data / ("kafka-scram" if self.secured else "kafka")

    @property
    def authority(self) -> Path:
        """The certificate of the authority that signed the broker's."""
        return self.kafka_data / "tls" / AUTHORITY

    def broker(self, principal: str) -> BrokerAddress:
        if not self.secured:
            return BrokerAddress(self.bootstrap)
        password = self.secrets.kafka_passwords[principal]
        return BrokerAddress(self.bootstrap, "SASL_SSL", principal, password, ca_file=self.authority)

    def url(self, service: str) -> str:
        return f"http://{HOST}:{self.door(service)}"

    def database_url(self, service: str) -> str:
        name, password = database_name(service), self.secrets.database_passwords[service]
        return f"postgresql+asyncpg://{name}:{password}@{HOST}:{self.door('postgres')}/{name}"


def service_environment(layout: Layout, service: str) -> dict[str, str]:
    """The variables of one service, on top of those that this process has."""
    prefix = service.upper()
    own = {
        "DATABASE_URL": layout.database_url(service),
        "KAFKA_BOOTSTRAP_SERVERS": layout.bootstrap,
        "KEYS_FILE": str(layout.data / "keys.json"),
        "POLICY_PACK": layout.pack,
        "HTTP_PORT": str(layout.ports[service]),
        "TIME_SCALE": repr(layout.clock.scale),
        "TIME_ORIGIN": layout.clock.origin.isoformat(),
    }
    if service == "intake":
        own |= {"DATA_KEY": layout.secrets.data_key, "INDEX_KEY": layout.secrets.index_key}
    if service == "dispatch":
        own |= {"INTAKE_URL": layout.url("intake"), "PUBLIC_URL": layout.url("dispatch")}
        own |= {"REPLY_KEY": layout.secrets.reply_key} if layout.secured else {}
    own |= kafka_environment(layout, service_principal(service))
    return {**os.environ, "PYTHONUNBUFFERED": "1", **{f"{prefix}_{name}": value for name, value in own.items()}}


def kafka_environment(layout: Layout, principal: str) -> dict[str, str]:
    """The variables that make a program this principal; none when the broker asks for nobody's name."""
    if not layout.secured:
        return {}
    return {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_USERNAME": principal,
        "KAFKA_PASSWORD": layout.secrets.kafka_passwords[principal],
        "KAFKA_CA_FILE": str(layout.authority),
    }


def migrations(layout: Layout) -> list[Program]:
    """One command for each service that brings its database up to date; each runs to its end."""
    return [
        Program(
            name=f"{service}-migrate",
            command=(sys.executable, "-m", f"services.{service}", "migrate"),
            environment=service_environment(layout, service),
            ready_seconds=MIGRATION_SECONDS,
        )
        for service in SERVICES
    ]


def service_programs(layout: Layout) -> list[Program]:
    return [
        Program(
            name=service,
            command=(sys.executable, "-m", f"services.{service}"),
            environment=service_environment(layout, service),
            ready=healthy(f"http://{HOST}:{layout.ports[service]}"),
            ready_seconds=SERVICE_READY_SECONDS,
        )
        for service in SERVICES
    ]


def embedded_broker(layout: Layout) -> Program:
    """It listens only when its topics are there, so an open port means ready."""
    port = layout.ports["kafka"]
    return Program(
        name="kafka",
        command=(
            *(sys.executable, "-m", "deploy.local.broker"),
            *("--port", str(port), "--advertised-port", str(layout.door("kafka"))),
            *("--topics-from-pack", layout.pack),
        ),
        environment={**os.environ, "PYTHONUNBUFFERED": "1"},
        ready=lambda: port_open(HOST, port),
        stop_seconds=2.0,
    )


def topic_program(layout: Layout) -> Program:
    """Creates the topics in real Kafka; runs to its end."""
    return Program(
        name="topics",
        command=(
            *(sys.executable, "-m", "deploy.local.topics"),
            *("--bootstrap", layout.bootstrap, "--pack", layout.pack),
        ),
        environment={**os.environ, **kafka_environment(layout, TOPICS)},
        ready_seconds=TOPICS_SECONDS,
    )


def healthy(url: str) -> Callable[[], Awaitable[bool]]:
    """Asks a service whether it is ready."""

    async def ready() -> bool:
        try:
            async with httpx.AsyncClient(timeout=HEALTH_TIMEOUT_SECONDS, trust_env=False) as client:
                return (await client.get(f"{url}/health/ready")).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    return ready
