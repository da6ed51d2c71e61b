"""What a client of a one-machine run makes of `run.json`: the broker's address as one of its principals."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.contracts.signature import read_key
from shared.messaging.broker import BrokerAddress


def broker_of(run: Mapping[str, Any], principal: str) -> BrokerAddress:
    """The broker as this principal; without `KAFKA_SECURITY=scram` as nobody."""
    kafka = run["kafka"]
    if kafka["security"] == "none":
        return BrokerAddress(kafka["bootstrap_servers"])
    password, authority = kafka["passwords"][principal], Path(kafka["ca_file"])
    return BrokerAddress(kafka["bootstrap_servers"], "SASL_SSL", principal, password, ca_file=authority)


def reply_key_of(run: Mapping[str, Any], branch: str) -> bytes | None:
    """The key with which this branch signs its commands, if they must be signed."""
    text = run["kafka"]["reply_keys"].get(branch)
    return read_key(text) if text else None
