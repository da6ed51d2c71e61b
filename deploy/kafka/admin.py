"""Users and rights of a Kafka cluster, over aiokafka's connection; used by `deploy.kafka.access`.

aiokafka's admin client has neither, so the requests are put together here: three whose layout aiokafka knows, and
AlterUserScramCredentials (KIP-554), which it does not. Any broker takes them and forwards them to the controller.
"""

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from enum import IntEnum
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import for_code
from aiokafka.protocol.admin import CreateAclsRequest_v1, DeleteAclsRequest_v1, DescribeAclsRequest_v1
from aiokafka.protocol.api import RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactBytes, CompactString, Int8, Int16, Int32, Schema, TaggedFields

from shared.messaging.broker import BrokerAddress

REQUEST_TIMEOUT_MS = 15_000
# Numbers of Kafka's protocol (KIP-140, KIP-290, KIP-554).
ANY = 1
LITERAL = 3
ALLOW = 3
SCRAM_SHA_512 = 2
EVERY_HOST = "*"
USER = "User:"
# Kafka takes 4,096 to 16,384.
ITERATIONS = 8_192


class Resource(IntEnum):
    TOPIC = 2
    GROUP = 3
    CLUSTER = 4
    TRANSACTIONAL_ID = 5
    DELEGATION_TOKEN = 6
    USER = 7


class Operation(IntEnum):
    ALL = 2
    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    CLUSTER_ACTION = 9
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11
    IDEMPOTENT_WRITE = 12
    CREATE_TOKENS = 13
    DESCRIBE_TOKENS = 14
    TWO_PHASE_COMMIT = 15


class Entry(NamedTuple):
    """One right: this principal may do this to the one resource of exactly this name, from any host.

    Other patterns and hosts are not given by us, only found and taken away.
    """

    principal: str
    operation: Operation
    resource: Resource
    name: str
    pattern: int = LITERAL
    host: str = EVERY_HOST


class Refused(Exception):
    """The broker did not do what it was asked."""


class _Prepared:
    """A request of one fixed version, in the form that aiokafka's connection takes."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        key, version = self._request.API_KEY, self._request.API_VERSION
        lowest, highest = versions.get(key, (1, 0))
        if not lowest <= version <= highest:
            raise Refused(f"this broker does not know request {key} in version {version}; Kafka 2.7 or newer is needed")
        return self._request


class _AlterScramResponse(Response):  # type: ignore[misc]
    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(
                ("user", CompactString("utf-8")),
                ("error_code", Int16),
                ("error_message", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AlterScramRequest(RequestStruct):  # type: ignore[misc]
    API_KEY = 51
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _AlterScramResponse
    SCHEMA = Schema(
        ("deletions", CompactArray(("name", CompactString("utf-8")), ("mechanism", Int8), ("tags", TaggedFields))),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class Admin:
    """An open connection; use with `async with`. Every method raises `Refused`, `KafkaError` or `OSError`."""

    def __init__(self, broker: BrokerAddress) -> None:
        self._client = AIOKafkaClient(**broker.options(), request_timeout_ms=REQUEST_TIMEOUT_MS)

    async def __aenter__(self) -> Self:
        await self._client.bootstrap()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def entries(self) -> set[Entry]:
        """Every right of every user."""
        answer = await self._ask(DescribeAclsRequest_v1(ANY, None, ANY, None, None, ANY, ALLOW))
        _check(answer.error_code, answer.error_message)
        return {
            Entry(principal.removeprefix(USER), Operation(operation), Resource(kind), name, pattern, host)
            for kind, name, pattern, rights in answer.resources
            for principal, host, operation, _ in rights
        }

    async def add(self, entries: Iterable[Entry]) -> None:
        answer = await self._ask(CreateAclsRequest_v1(_rows(entries)))
        for code, message in answer.creation_responses:
            _check(code, message)

    async def remove(self, entries: Iterable[Entry]) -> None:
        answer = await self._ask(DeleteAclsRequest_v1(_rows(entries)))
        for code, message, _ in answer.filter_responses:
            _check(code, message)

    async def set_passwords(self, passwords: Mapping[str, str]) -> None:
        """Make the users, or give them another password. The broker gets the salted hash (RFC 5802), no password."""
        rows: list[tuple[Any, ...]] = []
        for user, password in passwords.items():
            salt = secrets.token_bytes(32)
            salted = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
            rows.append((user, SCRAM_SHA_512, ITERATIONS, salt, salted, {}))
        await self._alter([], rows)

    async def remove_users(self, users: Iterable[str]) -> None:
        await self._alter([(user, SCRAM_SHA_512, {}) for user in users], [])

    async def _alter(self, deletions: list[Any], upsertions: list[Any]) -> None:
        answer = await self._ask(_AlterScramRequest(deletions, upsertions, {}))
        for user, code, message, _ in answer.results:
            _check(code, f"{user}: {message}")

    async def _ask(self, request: Any) -> Any:
        return await self._client.send(self._client.get_random_node(), _Prepared(request))


def _rows(entries: Iterable[Entry]) -> list[tuple[Any, ...]]:
    return [(e.resource, e.name, e.pattern, USER + e.principal, e.host, e.operation, ALLOW) for e in entries]


def _check(code: int, message: str | None) -> None:
    if code:
        raise Refused(f"{for_code(code).__name__}: {message or 'no reason given'}")
