"""Kafka with TLS, users and rights, for real: each does its own work and nothing else, no branch speaks for another."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    TopicAuthorizationFailedError,
)
from sqlalchemy import text

from deploy.kafka import access
from deploy.kafka.admin import Admin, Entry, Operation, Refused, Resource
from deploy.kafka.certificates import AUTHORITY, make_certificates
from shared.contracts.envelope import read_envelope
from shared.contracts.signature import branch_key
from shared.contracts.topics import BRANCH_REPLIES, INTAKE, REVIEW, branch_topic, dead_letter_topic
from shared.messaging.broker import BrokerAddress
from shared.service import Service
from tests.support.parts import Databases, must_have_kafka
from tests.support.secured import (
    BRANCHES,
    Secured,
    approve,
    broker_health,
    command,
    dispatch_settings,
    key_of,
    running_dispatch,
    running_secured,
    send,
    started,
)

pytestmark = pytest.mark.kafka
PATIENCE_SECONDS = 40.0


@pytest_asyncio.fixture(scope="module")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    must_have_kafka()
    async with running_secured(tmp_path_factory.mktemp("secured")) as running:
        yield running


@pytest_asyncio.fixture(scope="module")
async def dispatch(
    databases: Databases, kafka: Secured, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    broker = kafka.address("gongdan.dispatch")
    settings = dispatch_settings(await databases.fresh("dispatch"), broker, tmp_path_factory.mktemp("dispatch"))
    async with running_dispatch(settings) as service:
        yield service


async def until(ask: Callable[[], Awaitable[Any]], expected: Any) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_SECONDS
    while (found := await ask()) != expected:
        assert loop.time() < deadline, f"{found!r} is not {expected!r}"
        await asyncio.sleep(0.1)


async def ask(service: Service, sql: str, **values: Any) -> Any:
    """The first value of the first row, or None."""

    async def run(connection: Any) -> Any:
        return await connection.scalar(text(sql), values)

    return await service.background.read(run)


async def status(service: Service, ticket: UUID) -> Any:
    return await ask(service, "SELECT status FROM work_orders WHERE ticket_id = :id", id=ticket)


async def reason(service: Service, ticket: UUID) -> Any:
    """Why the last dead letter of this ticket is dead."""
    sql = "SELECT error FROM dead_letters WHERE record_key = :key ORDER BY id DESC LIMIT 1"
    return await ask(service, sql, key=str(ticket).encode())


async def first_of(broker: BrokerAddress, topic: str, group: str | None, key: bytes) -> Any:
    """The first record with this key. Raises what the broker says against the reading."""
    options = {**broker.options(), "auto_offset_reset": "earliest", "request_timeout_ms": 5_000}
    reader = AIOKafkaConsumer(topic, **options, group_id=group, enable_auto_commit=False)
    async with started(reader) as consumer:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                record = await consumer.getone()
                if record.key == key:
                    if group is not None:
                        await consumer.commit({TopicPartition(topic, record.partition): record.offset + 1})
                    return record


# ---- a branch and its orders -----------------------------------------------------------------------------------------


async def test_an_order_goes_to_its_branch_and_a_signed_command_comes_back(dispatch: Service, kafka: Secured) -> None:
    ticket = await approve(kafka.address("gongdan.review"))
    branch = kafka.branch("jinan")
    record = await first_of(branch, branch_topic("jinan"), "gongdan.branch.jinan", str(ticket).encode())
    assert read_envelope([(name, value) for name, value in record.headers]).type == "order.dispatched"
    await send(branch, **command(ticket, key_of("jinan")))
    await until(lambda: status(dispatch, ticket), "accepted")
    assert await reason(dispatch, ticket) is None
    assert await broker_health(dispatch) == "ok"


def twice_named(ticket: UUID) -> dict[str, Any]:
    """A right command with a second `ce_id` behind the signed one."""
    record = command(ticket, key_of("jinan"))
    record["headers"] += [("ce_id", b"0190a7d2-0000-7000-8000-000000000001")]
    return record


def altered(ticket: UUID) -> dict[str, Any]:
    """A right command's headers with another value."""
    return command(ticket, key_of("jinan")) | {"value": b'{"branch": "jinan", "actor": "somebody else"}'}


FORGED: dict[str, tuple[Callable[[UUID], dict[str, Any]], str]] = {
    "not signed": (lambda ticket: command(ticket), "not_signed"),
    "signed with its own key": (lambda ticket: command(ticket, key_of("qingdao")), "wrong_signature"),
    "signed under another master": (lambda ticket: command(ticket, branch_key(bytes(32), "jinan")), "wrong_signature"),
    "its own signature, another branch in the data": (
        lambda ticket: command(ticket, key_of("qingdao"), source="qingdao"),
        "not_your_order: the command's ce_source",
    ),
    "all its own, on another's order": (
        lambda ticket: command(ticket, key_of("qingdao"), branch="qingdao", source="qingdao"),
        "not_your_order: no order",
    ),
    "a captured signature over another value": (altered, "wrong_signature"),
    "a captured signature and a second id": (twice_named, "wrong_signature"),
}


@pytest.mark.parametrize("how", list(FORGED))
async def test_a_branch_cannot_speak_for_another(dispatch: Service, kafka: Secured, how: str) -> None:
    forge, expected = FORGED[how]
    ticket = await approve(kafka.address("gongdan.review"))
    await until(lambda: status(dispatch, ticket), "dispatched")
    await send(kafka.branch("qingdao"), **forge(ticket))

    async def refused() -> bool:
        return str(await reason(dispatch, ticket)).startswith(expected)

    await until(refused, True)
    assert await status(dispatch, ticket) == "dispatched"
    operator = kafka.address(access.OPERATOR)
    letter = await first_of(operator, dead_letter_topic(BRANCH_REPLIES), access.OPERATOR, str(ticket).encode())
    assert dict(letter.headers)["dead_error"].decode().startswith(expected)
    await send(kafka.branch("jinan"), **command(ticket, key_of("jinan")))
    await until(lambda: status(dispatch, ticket), "accepted")


# ---- rights ----------------------------------------------------------------------------------------------------------


async def may_not_read(broker: BrokerAddress, topic: str, group: str | None = None) -> None:
    with pytest.raises(TopicAuthorizationFailedError):
        await first_of(broker, topic, group, b"")


async def may_not_write(broker: BrokerAddress, topic: str) -> None:
    with pytest.raises(TopicAuthorizationFailedError):
        await send(broker, topic, value=b"forged")


@pytest.mark.parametrize("topic", [branch_topic("qingdao"), branch_topic("1"), INTAKE, REVIEW, BRANCH_REPLIES])
async def test_a_branch_reads_no_topic_but_its_own(kafka: Secured, topic: str) -> None:
    await may_not_read(kafka.branch("jinan"), topic)


async def test_one_branch_is_no_prefix_of_another(kafka: Secured) -> None:
    await may_not_read(kafka.branch("1"), branch_topic("10"))
    await may_not_read(kafka.branch("10"), branch_topic("1"))
    with pytest.raises(GroupAuthorizationFailedError):
        await first_of(kafka.branch("1"), branch_topic("1"), "gongdan.branch.10", b"")


@pytest.mark.parametrize("topic", [branch_topic("jinan"), branch_topic("qingdao"), INTAKE, "gongdan.control"])
async def test_a_branch_writes_nowhere_but_to_the_replies(kafka: Secured, topic: str) -> None:
    await may_not_write(kafka.branch("jinan"), topic)


async def test_a_branch_uses_no_group_but_its_own(kafka: Secured) -> None:
    for group in ("gongdan.branch.qingdao", "gongdan.dispatch", "mine"):
        with pytest.raises(GroupAuthorizationFailedError):
            await first_of(kafka.branch("jinan"), branch_topic("jinan"), group, b"")


async def test_a_branch_makes_no_topic_no_user_and_no_right(kafka: Secured) -> None:
    branch = kafka.branch("jinan")
    client = AIOKafkaAdminClient(**branch.options())
    await client.start()
    answer = await client.create_topics([NewTopic("gongdan.dispatch.mine", 1, 1)])
    await client.close()
    assert [code for _, code, *_ in answer.topic_errors] == [TopicAuthorizationFailedError.errno]
    async with Admin(branch) as admin:
        for attempt in (
            admin.add([Entry("gongdan.branch.jinan", Operation.READ, Resource.TOPIC, INTAKE)]),
            admin.set_passwords({"gongdan.branch.qingdao": "mine"}),
            admin.entries(),
        ):
            with pytest.raises(Refused, match="ClusterAuthorizationFailed"):
                await attempt


async def test_a_service_writes_no_topic_of_another_and_no_identity(kafka: Secured) -> None:
    for topic in (INTAKE, branch_topic("jinan"), BRANCH_REPLIES, "gongdan.incarnation"):
        await may_not_write(kafka.address("gongdan.review"), topic)
    await may_not_read(kafka.address("gongdan.review"), BRANCH_REPLIES)


async def test_the_operator_reads_what_branches_read_and_writes_nothing(kafka: Secured) -> None:
    operator = kafka.address(access.OPERATOR)
    async with started(AIOKafkaConsumer(**operator.options())) as consumer:
        assert {branch_topic(branch) for branch in BRANCHES} <= await consumer.topics()
    await may_not_write(operator, BRANCH_REPLIES)


async def test_nobody_gets_in_without_a_name_or_in_the_clear(kafka: Secured) -> None:
    for stranger in (
        BrokerAddress(kafka.admin.bootstrap_servers),
        replace(kafka.admin, security_protocol="SSL"),
        replace(kafka.admin, security_protocol="SASL_PLAINTEXT"),
        replace(kafka.admin, username="gongdan.nobody"),
    ):
        with pytest.raises(KafkaConnectionError):
            await send(stranger, INTAKE, value=b"")


async def test_a_branch_that_left_the_pack_is_out_at_once_and_rights_by_hand_are_taken_away(kafka: Secured) -> None:
    visitor = access.branch_principal("visitor")
    stray = Entry("gongdan.branch.jinan", Operation.READ, Resource.TOPIC, "gongdan.", pattern=4)
    passwords = access.with_missing(kafka.passwords, [*BRANCHES, "visitor"])
    said = await access.apply(kafka.admin, [*BRANCHES, "visitor"], passwords)
    assert ", 5 rights" not in said
    address = replace(kafka.admin, username=visitor, password=passwords[visitor])
    async with AIOKafkaProducer(**address.options(), acks="all") as producer, Admin(kafka.admin) as admin:
        await producer.send_and_wait(BRANCH_REPLIES, value=b"here", partition=0)
        await admin.add([stray])
        assert f"{visitor} removed" in await access.apply(kafka.admin, BRANCHES, kafka.passwords)
        assert await admin.entries() == access.entries(BRANCHES)
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait(BRANCH_REPLIES, value=b"still here", partition=0)
    assert await address.refusal() == "the broker refused our user name or password"
    assert "0 rights added, 0 removed" in await access.apply(kafka.admin, BRANCHES, kafka.passwords)


# ---- a password that changes, a certificate that is not trusted ------------------------------------------------------


async def test_a_wrong_password_is_said_and_heals_without_a_restart(
    databases: Databases, kafka: Secured, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = kafka.address("gongdan.dispatch")
    secret = tmp_path / "password"
    secret.write_text("not-the-password\n", encoding="utf-8")
    settings = dispatch_settings(
        await databases.fresh("dispatch"), broker, tmp_path, kafka_password="unused", kafka_password_file=secret
    )
    caplog.set_level(logging.INFO, "shared.messaging")
    async with running_dispatch(settings) as service:
        await until(lambda: broker_health(service), "the broker refused our user name or password")
        assert [record.levelname for record in caplog.records if getattr(record, "error", "").startswith("the broker")]
        secret.write_text(f"{broker.password}\n", encoding="utf-8")
        await until(lambda: broker_health(service), "ok")

        ticket = await approve(kafka.address("gongdan.review"))
        await until(lambda: status(service, ticket), "dispatched")
        async with Admin(kafka.admin) as admin:
            await admin.set_passwords({"gongdan.dispatch": "rotated"})
        secret.write_text("rotated\n", encoding="utf-8")
        await kafka.restart()
        ticket = await approve(kafka.address("gongdan.review"))
        await until(lambda: status(service, ticket), "dispatched")
        await until(lambda: broker_health(service), "ok")
    await access.apply(kafka.admin, BRANCHES, kafka.passwords)
    assert not any(password in caplog.text for password in ("not-the-password", "rotated", broker.password or ""))


async def test_an_untrusted_certificate_is_said(databases: Databases, kafka: Secured, tmp_path: Path) -> None:
    make_certificates(tmp_path / "other", ["127.0.0.1"])
    stranger = replace(kafka.address("gongdan.dispatch"), ca_file=tmp_path / "other" / AUTHORITY)
    settings = dispatch_settings(await databases.fresh("dispatch"), stranger, tmp_path)
    async with running_dispatch(settings) as service:

        async def untrusted() -> bool:
            return (await broker_health(service)).startswith("the broker's certificate is not trusted")

        await until(untrusted, True)
