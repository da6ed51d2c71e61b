"""The checked-in AsyncAPI document is the generated one, and hangs together."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.contracts.asyncapi import ABOUT, BRANCH_TYPES, examples, render
from shared.contracts.registry import COMMANDS, MODELS
from shared.contracts.topics import all_topics, topic_file

DOCUMENT = Path(__file__).parents[2] / "docs" / "asyncapi.yaml"
DISPATCH = Path(__file__).parents[2] / "services" / "dispatch"

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
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted(DISPATCH.rglob("*.py")))
    sent = re.findall(r"event = (\w+)\((?:(?!event = ).)*?record_for_branch\(event,", code, re.DOTALL)
    names = {model.__name__: name for name, model in MODELS.items()}
    assert {names[model] for model in sent} == set(BRANCH_TYPES)
    assert code.count("record_for_branch(event,") == len(sent)
    assert set(document["channels"]["gongdan.dispatch.branch"]["messages"]) == set(BRANCH_TYPES)
