"""The broker's `server.properties`, for one machine and for docker compose: plain, or with TLS, SCRAM and rights.

What must stay true: with `Security` there is no way in without a user name and password, and nobody may do anything
that `deploy.kafka.access` does not list, but the super user.
"""

import base64
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from deploy.kafka.access import ADMIN
from shared.messaging.broker import MECHANISM

FOLDER = Path(__file__).parent
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


@dataclass(frozen=True)
class Listener:
    """`binds` and `advertised` are host:port; an empty host in `binds` means every address."""

    name: str
    binds: str
    advertised: str


@dataclass(frozen=True)
class Security:
    """The super user's password, and the PEM files as the broker sees them: `server` holds its key and chain."""

    admin_password: str = field(repr=False)
    server: str
    authority: str


def properties(listeners: Sequence[Listener], controller_port: int, data: str, security: Security | None) -> str:
    """The file's content. The broker speaks to itself over the first listener, to the controller over loopback."""
    protocol = "SASL_SSL" if security else "PLAINTEXT"
    protocols = [f"{listener.name}:{protocol}" for listener in listeners]
    controller = f"CONTROLLER://127.0.0.1:{controller_port}"
    text = _template("server.properties").substitute(
        controller_port=controller_port,
        listeners=",".join([*(f"{one.name}://{one.binds}" for one in listeners), controller]),
        advertised=",".join([*(f"{one.name}://{one.advertised}" for one in listeners), controller]),
        protocols=",".join([*protocols, f"CONTROLLER:{'SASL_PLAINTEXT' if security else 'PLAINTEXT'}"]),
        inter_broker=listeners[0].name,
        data=data,
    )
    if security is None:
        return text
    secured = _template("secured.properties").substitute(
        admin=ADMIN, server=security.server, authority=security.authority
    )
    return text + "\n" + secured + "\n".join(_logins(listeners, security)) + "\n"


def _logins(listeners: Sequence[Listener], security: Security) -> list[str]:
    """JAAS, one line a listener; its super user is whom the broker is to itself and to the controller."""
    admin = f'required username="{ADMIN}" password="{security.admin_password}"'
    lines = [
        f"listener.name.{listener.name.lower()}.scram-sha-512.sasl.jaas.config={SCRAM} {admin};"
        for listener in listeners
    ]
    known = f'user_{ADMIN}="{security.admin_password}"'
    return [*lines, f"listener.name.controller.plain.sasl.jaas.config={PLAIN} {admin} {known};"]


def format_arguments(identity: str, config: str, security: Security | None) -> str:
    """What `kafka.tools.StorageTool` is told, one word a line: it reads them from a file (`@name`), so that the
    password stands on no command line."""
    words = ["format", "--standalone", "--ignore-formatted", "--cluster-id", identity, "--config", config]
    if security is not None:
        words += ["--add-scram", f"SCRAM-SHA-512=[name={ADMIN},password={security.admin_password}]"]
    return "\n".join(words) + "\n"


def client_properties(security: Security) -> str:
    """For Kafka's own command-line tools as the super user."""
    login = f'{SCRAM} required username="{ADMIN}" password="{security.admin_password}";'
    lines = ["security.protocol=SASL_SSL", f"sasl.mechanism={MECHANISM}", f"sasl.jaas.config={login}"]
    return "\n".join([*lines, "ssl.truststore.type=PEM", f"ssl.truststore.location={security.authority}"]) + "\n"


def cluster_id() -> str:
    """A random id in Kafka's form: 16 bytes as URL-safe base64 without padding, not beginning with a dash."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _template(name: str) -> Template:
    return Template((FOLDER / name).read_text(encoding="utf-8"))
