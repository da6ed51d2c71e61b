"""The checked-in AsyncAPI document is the generated one, and hangs together."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml

from services.dispatch import domain
from services.dispatch.domain import OrderStatus, Paperwork, WorkOrder
from shared.contracts.asyncapi import ABOUT, BRANCH_TYPES, examples, render
from shared.contracts.registry import COMMANDS, MODELS
from shared.contracts.ticket import Basis, TicketSnapshot
from shared.contracts.topics import all_topics, branch_topic, topic_file
from shared.policy import load_pack, route

DOCUMENT = Path(__file__).parents[2] / "docs" / "asyncapi.yaml"
NOW = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)

document: dict[str, Any] = yaml.safe_load(DOCUMENT.read_text(encoding="utf-8"))


def resolve(reference: str) -> Any:
    """What a `$ref` points at; `KeyError` when it points at nothing."""
    place: Any = document
    for step in reference.removeprefix("#/").split("/"):
        place = place[step.replace("~1", "/").replace("~0", "~")]
    return place


def references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for part in value.values() for found in references(part)]
    return [found for part in value for found in references(part)] if isinstance(value, list) else []


def test_the_document_is_the_generated_one() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == render(), "renew it with `make asyncapi`"


def test_the_required_fields_are_there() -> None:
    assert document["asyncapi"] == "3.0.0"
    assert document["info"]["title"]
    assert document["info"]["version"]
    assert document["info"]["description"] == ABOUT
    for server in document["servers"].values():
        assert {"host", "protocol"} <= server.keys()
    for channel in document["channels"].values():
        assert {"address", "messages"} <= channel.keys()
    for operation in document["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert operation["channel"].keys() == {"$ref"}


def test_every_reference_points_at_something() -> None:
    found = references(document)
    assert len(found) > 200
    for reference in found:
        assert reference.startswith("#/")
        resolve(reference)


def test_an_operation_names_messages_of_its_own_channel() -> None:
    for operation in document["operations"].values():
        start = operation["channel"]["$ref"] + "/messages/"
        assert operation["messages"]
        assert all(message["$ref"].startswith(start) for message in operation["messages"])


def test_every_topic_is_a_channel_with_its_partitions() -> None:
    topics = {topic.name: topic for topic in all_topics(["{branch}"])}
    addresses = {channel["address"]: channel for channel in document["channels"].values()}
    assert addresses.keys() == topics.keys()
    for address, channel in addresses.items():
        assert channel["bindings"]["kafka"]["partitions"] == topics[address].partitions
        assert ("{branch}" in address) == ("parameters" in channel)


def test_the_operations_are_the_topic_table() -> None:
    expected = {
        (side, action, topic.name)
        for topic in all_topics(["{branch}"])
        for action, sides in (("send", topic.producers), ("receive", topic.consumers))
        for side in sides
    }
    found = {
        (operation["x-service"], operation["action"], resolve(operation["channel"]["$ref"])["address"])
        for operation in document["operations"].values()
    }
    assert found == expected


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_type_is_a_message_on_its_topic(name: str) -> None:
    message = document["components"]["messages"][name]
    topic = MODELS[name].TOPIC  # type: ignore[attr-defined]
    assert name in document["channels"][topic]["messages"]
    assert message["examples"][0]["payload"] == examples()[name]
    headers = resolve(message["headers"]["allOf"][0]["$ref"])
    assert ("ce_sequence" in headers["required"]) == (name not in COMMANDS)
    assert set(headers["required"]) <= set(message["examples"][0]["headers"])


def test_each_topic_carries_some_type() -> None:
    carried = {model.TOPIC for model in MODELS.values()}  # type: ignore[attr-defined]
    plain = {topic.name for topic in topic_file().topics} - {"gongdan.dispatch.{branch}", "gongdan.incarnation"}
    assert carried == plain


def test_what_dispatch_sends_to_a_branch_is_what_the_document_says() -> None:
    pack = load_pack("mobile_operator")
    ticket = TicketSnapshot.model_validate(examples()["ticket.supplemented"]["ticket"])
    basis = Basis(pack=pack.id, version=pack.version)
    order = WorkOrder(ticket_id=UUID(int=1), ticket_no=ticket.ticket_no, ticket=ticket)
    domain.send(order, route(pack, ticket), Paperwork(pack, (), "", ""), "rules", NOW)
    domain.urge(order, "rules", NOW, "customer waits", basis)
    domain.escalate(order, ticket, NOW, kind="overdue", rung=1, level=None, reason="late", limits=(), basis=basis)
    domain.end(order, "ticket.withdrawn", "rules", NOW)
    assert order.status is OrderStatus.ended
    sent = [item.event for item in order.pending if item.topic == branch_topic("jinan")]
    assert {event.TYPE for event in sent} == set(BRANCH_TYPES)  # type: ignore[attr-defined]
    assert set(document["channels"]["gongdan.dispatch.branch"]["messages"]) == set(BRANCH_TYPES)
