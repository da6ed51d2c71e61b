"""What a service says of the broker is whole, or refused at the start with the variable's name."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.messaging.broker import MECHANISM, BrokerAddress
from shared.settings import BrokerSettings, broker_from_environment, from_environment

SERVERS = {"KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"}
SASL = SERVERS | {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT"}
WHO = {"KAFKA_USERNAME": "gongdan.sla", "KAFKA_PASSWORD": "not-a-secret"}


def refused(environment: dict[str, str]) -> dict[str, str]:
    """The variables at fault, and why."""
    with pytest.raises(ValidationError) as refusal:
        from_environment(BrokerSettings, environment)
    return {"_".join(map(str, item["loc"])).upper(): item["msg"] for item in refusal.value.errors()}


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        (SASL | {"KAFKA_PASSWORD": "x"}, "KAFKA_USERNAME"),
        (SASL | {"KAFKA_USERNAME": "x"}, "KAFKA_PASSWORD"),
        (SASL | WHO | {"KAFKA_USERNAME": ""}, "KAFKA_USERNAME"),
        (SERVERS | {"KAFKA_USERNAME": "x"}, "KAFKA_USERNAME"),
        (SERVERS | {"KAFKA_PASSWORD": "x"}, "KAFKA_PASSWORD"),
        (SERVERS | {"KAFKA_CA_FILE": __file__}, "KAFKA_CA_FILE"),
        (SASL | WHO | {"KAFKA_CA_FILE": __file__}, "KAFKA_CA_FILE"),
        (SERVERS | {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_CA_FILE": "/not/there.pem"}, "KAFKA_CA_FILE"),
        (SERVERS | {"KAFKA_SECURITY_PROTOCOL": "sasl"}, "KAFKA_SECURITY_PROTOCOL"),
    ],
)
def test_what_does_not_fit_the_protocol_is_named(environment: dict[str, str], variable: str) -> None:
    assert list(refused(environment)) == [variable]


def test_without_anything_the_broker_is_plain() -> None:
    broker = from_environment(BrokerSettings, SERVERS).broker()
    assert broker.options() == {"bootstrap_servers": "kafka:9092", "security_protocol": "PLAINTEXT"}


def test_a_password_file_is_read_again_for_every_client(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("first\n", encoding="utf-8")
    given = SASL | {"KAFKA_USERNAME": "gongdan.sla", "KAFKA_PASSWORD_FILE": str(secret)}
    broker = from_environment(BrokerSettings, given).broker()
    first = broker.options()
    assert (first["sasl_mechanism"], first["sasl_plain_username"]) == (MECHANISM, "gongdan.sla")
    assert first["sasl_plain_password"] == "first"
    secret.write_text("second\n", encoding="utf-8")
    assert broker.options()["sasl_plain_password"] == "second"


def test_a_password_never_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = from_environment(BrokerSettings, SASL | WHO)
    assert "not-a-secret" not in repr(settings) + repr(settings.broker())
    monkeypatch.setenv("KAFKA_PASSWORD", "not-a-secret")
    with pytest.raises(ValueError, match="KAFKA_PASSWORD: ") as refusal:
        broker_from_environment("kafka:9092")
    assert "not-a-secret" not in str(refusal.value)


async def test_a_broker_that_is_away_has_refused_nobody() -> None:
    assert await BrokerAddress("127.0.0.1:1").refusal() is None


async def test_a_file_that_cannot_be_read_is_said_so() -> None:
    address = BrokerAddress("127.0.0.1:1", "SASL_PLAINTEXT", "gongdan.sla", password_file=Path("/not/there"))
    assert await address.refusal() == "the file with the broker's password or CA cannot be read"
