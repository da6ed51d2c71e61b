"""Settings that every service has. A service's own `settings.py` adds to them and sets the prefix.

Read once from the environment, frozen, handed down; nothing is opened at import. A variable `X` may be given as
`X_FILE` instead, naming a file that holds the value (for mounted secrets).
"""

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import Field, FilePath, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.http.jwks import ALGORITHMS, must_be_safe
from shared.messaging.broker import BrokerAddress, SecurityProtocol

FILE_SUFFIX = "_FILE"

B = TypeVar("B", bound="BrokerSettings")
S = TypeVar("S", bound="ServiceSettings")


class BrokerSettings(BaseSettings):
    """Where the broker is, and who we are to it: SCRAM-SHA-512 with the protocols SASL_…, TLS with …SSL."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    kafka_bootstrap_servers: str = Field(description="host:port[,host:port…]")
    kafka_security_protocol: SecurityProtocol = Field(
        default="PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    kafka_username: str | None = Field(default=None, validate_default=True, description="for SASL_…: our principal")
    kafka_password: SecretStr | None = Field(default=None, validate_default=True, description="for SASL_…")
    kafka_password_file: FilePath | None = Field(
        default=None, description="holds the password; read again at every new connection"
    )
    kafka_ca_file: FilePath | None = Field(
        default=None,
        description="for …SSL: PEM of the authority that signed the broker's certificate (default: system's)",
    )

    @field_validator("kafka_username", "kafka_password", "kafka_ca_file")
    @classmethod
    def _fits_the_protocol(cls, value: Any, info: ValidationInfo) -> Any:
        protocol: str | None = info.data.get("kafka_security_protocol")
        given = bool(value.get_secret_value() if isinstance(value, SecretStr) else value)
        wanted = "SSL" if info.field_name == "kafka_ca_file" else "SASL"
        if protocol is not None and given and wanted not in protocol:
            raise ValueError(f"has no use with the security protocol {protocol}")
        if protocol is not None and not given and wanted == "SASL" and wanted in protocol:
            raise ValueError(f"is needed with the security protocol {protocol}")
        return value

    def broker(self) -> BrokerAddress:
        password = self.kafka_password.get_secret_value() if self.kafka_password else None
        return BrokerAddress(
            self.kafka_bootstrap_servers,
            self.kafka_security_protocol,
            self.kafka_username,
            password,
            self.kafka_password_file,
            self.kafka_ca_file,
        )


class ServiceSettings(BrokerSettings):
    """Common settings. Durations carry their unit in the name and are real time, never scaled."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    database_url: SecretStr = Field(description="postgresql+asyncpg://user:password@host:port/database")
    keys_file: Path = Field(description="JSON file with the hashed API keys")
    policy_pack: str = Field(default="mobile_operator", description="name of a folder in shared/policy/packs")
    http_host: str = "127.0.0.1"
    http_port: int
    http_connection_limit: int = Field(default=1000, gt=0, description="open connections a process")
    http_request_limit: int = Field(default=500, gt=0, description="requests in hand at once, a process")
    http_header_seconds: float = Field(default=10.0, gt=0, description="for a request's headers to arrive")
    http_body_idle_seconds: float = Field(default=15.0, gt=0, description="how long a body may stand still")
    http_body_seconds: float = Field(default=30.0, gt=0, description="for a request's whole body to arrive")
    http_unread_seconds: float = Field(default=30.0, gt=0, description="how long an answer may go unread")
    rate_limit_per_second: float = Field(default=3000.0, ge=0, description="requests of one client; 0: no limit")
    rate_limit_burst: int = Field(default=0, ge=0, description="requests of one client at once; 0: two seconds' worth")
    log_level: str = "INFO"
    time_scale: float = Field(default=1.0, gt=0, description="seconds of business time in one real second")
    time_origin: datetime | None = Field(default=None, description="moment at which scaled time began, with offset")
    database_pool_size: int = 5
    drain_seconds: float = 5.0
    fetch_max_wait_ms: int = Field(default=30, description="how long the broker may hold an empty fetch, unless idle")
    outbox_retention_days: int = 7
    outbox_backlog_limit: int = Field(default=200_000, description="unpublished events at which new work is refused")
    ready_lag_limit: int = Field(default=10_000, description="unread records at which readiness fails")
    ready_outbox_age_seconds: float = 30.0
    oidc_issuer: str | None = Field(default=None, description="https URL of an OpenID Connect issuer; none: keys only")
    oidc_audience: str | None = Field(default=None, description="the audience that tokens must name; with an issuer")
    oidc_jwks_url: str | None = Field(default=None, description="where its keys are; none: by discovery at the issuer")
    oidc_algorithms: str = Field(default="RS256,ES256,EdDSA", description="signatures taken; never symmetric ones")
    oidc_role_claim: str = Field(default="gongdan_role", description="claim that holds the role")
    oidc_scope_claim: str = Field(default="gongdan_scope", description="claim that holds the branch or the channel")
    oidc_client_claim: str = Field(
        default="sub", description="claim that retries are told apart by: sub, azp, client_id"
    )

    @property
    def oidc_algorithm_set(self) -> frozenset[str]:
        return frozenset(name.strip() for name in self.oidc_algorithms.split(","))

    @field_validator("oidc_issuer", "oidc_jwks_url")
    @classmethod
    def _safe_url(cls, url: str | None) -> str | None:
        return url if url is None else must_be_safe(url)

    @field_validator("oidc_algorithms")
    @classmethod
    def _asymmetric_only(cls, names: str) -> str:
        if unknown := {name.strip() for name in names.split(",")} - ALGORITHMS.keys():
            raise ValueError(f"{', '.join(sorted(unknown))} not among {', '.join(ALGORITHMS)}")
        return names

    @model_validator(mode="after")
    def _issuer_and_audience(self) -> Self:
        if bool(self.oidc_issuer) != bool(self.oidc_audience):
            raise ValueError("oidc_issuer and oidc_audience are set together or not at all")
        return self


def from_environment(model: type[B], environment: Mapping[str, str] | None = None) -> B:
    """Build the settings, reading `<PREFIX><NAME>_FILE` variables from the files they name."""
    values = dict(os.environ if environment is None else environment)
    prefix = model.model_config.get("env_prefix", "").upper()
    given: dict[str, Any] = {}
    for name in model.model_fields:
        variable = f"{prefix}{name.upper()}"
        if variable in values:
            given[name] = values[variable]
        elif (path := values.get(variable + FILE_SUFFIX)) and not name.endswith("_file"):
            given[name] = Path(path).read_text(encoding="utf-8").strip()
    return model(**given)


def broker_from_environment(bootstrap_servers: str) -> BrokerAddress:
    """For tools: the servers as given, protocol, user name, password and CA from `KAFKA_…` variables.

    Raises `ValueError`, naming the variable and not its value.
    """
    environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers}
    try:
        return from_environment(BrokerSettings, environment).broker()
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)
        raise ValueError(
            "; ".join(f"{'_'.join(map(str, one['loc'])).upper()}: {one['msg']}" for one in wrong)
        ) from None
