"""How to reach the broker, and as whom. Relay, consumer, log watch and the tools take one of these.

What must stay true: the password and the CA are read anew from their files for every new client, so that a rotation
needs no restart; neither is ever logged.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aiokafka.conn import create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]

MECHANISM = "SCRAM-SHA-512"
ASK_MILLISECONDS = 5_000


@dataclass(frozen=True)
class BrokerAddress:
    """`bootstrap_servers` is host:port[,host:port…]. `password_file` goes before `password`; without a `ca_file` TLS
    trusts the system's authorities."""

    bootstrap_servers: str
    security_protocol: SecurityProtocol = "PLAINTEXT"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    ca_file: Path | None = None

    def current_password(self) -> str | None:
        """Raises `OSError` when its file cannot be read."""
        if self.password_file is not None:
            return self.password_file.read_text(encoding="utf-8").strip()
        return self.password

    def options(self) -> dict[str, Any]:
        """The keyword arguments of aiokafka's clients. Raises `OSError` when a file cannot be read."""
        return {"bootstrap_servers": self.bootstrap_servers, **self._security()}

    def _security(self) -> dict[str, Any]:
        options: dict[str, Any] = {"security_protocol": self.security_protocol}
        if self.security_protocol.endswith("SSL"):
            options["ssl_context"] = ssl.create_default_context(cafile=self.ca_file)
        if self.security_protocol.startswith("SASL"):
            options["sasl_mechanism"] = MECHANISM
            options["sasl_plain_username"] = self.username
            options["sasl_plain_password"] = self.current_password()
        return options

    async def refusal(self) -> str | None:
        """Why the broker will not have us, or we not it; None when that is not the trouble.

        aiokafka's clients say only that they could not connect, so this makes one connection of its own.
        """
        for address in self.bootstrap_servers.split(","):
            host, _, port = address.strip().rpartition(":")
            try:
                connection = await create_conn(host, int(port), request_timeout_ms=ASK_MILLISECONDS, **self._security())
            except (KafkaError, OSError) as error:
                if (reason := reason_of(error)) is not None:
                    return reason
            else:
                await connection.close()
        return None


def reason_of(error: Exception) -> str | None:
    """What this error says about trust or rights, in words for health and the log; None for any other trouble."""
    match error:
        case SaslAuthenticationFailed():
            return "the broker refused our user name or password"
        case UnsupportedSaslMechanismError() | IllegalSaslStateError():
            return f"the broker does not take {MECHANISM}"
        case TopicAuthorizationFailedError():
            return "the broker does not let us read what we must"
        case ssl.SSLCertVerificationError():
            return f"the broker's certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return "TLS with the broker failed: wrong protocol, port or CA file"
        case FileNotFoundError() | PermissionError():
            return "the file with the broker's password or CA cannot be read"
    return None
