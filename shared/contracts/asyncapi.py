"""The AsyncAPI 3.0 document of every topic and message, generated from the topics, the models and the examples.

    python -m shared.contracts.asyncapi > docs/asyncapi.yaml

A test keeps the checked-in document equal to what this prints, so change the models, never the document.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic.json_schema import models_json_schema

from shared.contracts.envelope import SOURCE_PREFIX, SPEC_VERSION, schema_urn
from shared.contracts.registry import COMMANDS, MODELS, EventModel
from shared.contracts.signature import SIGNED_HEADERS
from shared.contracts.topics import (
    BRANCH_PLACEHOLDER,
    BRANCH_REPLIES,
    CONTROL,
    INCARNATION,
    Topic,
    all_topics,
    branch_topic,
)

ASYNCAPI = "3.0.0"
VERSION = "1.0.0"
EXAMPLES = Path(__file__).with_name("examples")
SCHEMAS = "#/components/schemas/"
BINDING_VERSION = "0.5.0"
HOUR_MS = 3_600_000

BRANCH_CHANNEL = branch_topic(BRANCH_PLACEHOLDER)
BRANCH_TYPES = ("order.dispatched", "order.urged", "order.escalated", "order.recalled")
"""The types that dispatch also sends to the topic of the branch that holds the order."""

EXAMPLE_TICKET = "019b0a51-7c80-7d35-9f11-3c2a8e64b7d0"
EXAMPLE_INCIDENT = "019b0a7f-0e10-7b66-b3a8-90d4c1f2e57a"
EXAMPLE_REQUEST = "019b0a7f-3c44-7f02-9a51-7be0c2d4f688"
EXAMPLE_TIME = "2026-11-22T01:12:40+00:00"

ABOUT = f"""\
Work orders for complaints: what four services tell each other, and what they tell the branches.

Every record is a CloudEvent {SPEC_VERSION} in Kafka's binary mode: the attributes are `ce_*` headers, the value is the
data as JSON. The key is the subject (a ticket's id, or an incident's), so what concerns one subject stays in order
within a topic. `ce_sequence` counts the events of a subject at its publisher 1, 2, 3 … without holes; delivery is at
least once, so a reader drops what it has seen. Phone and identity numbers never appear; texts are masked.

Fields may be added to an event at any time: readers ignore what they do not know. A command is stricter: a field
that is not known is refused.
"""


class _Dumper(yaml.SafeDumper):
    """Plain YAML: no anchors, and texts of several lines as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def examples() -> dict[str, Any]:
    """The example of each type: the data of the event, as it stands on the wire."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(EXAMPLES.glob("*.json"))}


def payload_schemas() -> dict[str, Any]:
    """JSON schemas of every model and its parts, by model name."""
    _, document = models_json_schema(
        [(model, "validation") for model in MODELS.values()], ref_template=SCHEMAS + "{model}"
    )
    schemas: dict[str, Any] = document["$defs"]
    return dict(sorted(schemas.items()))


def document() -> dict[str, Any]:
    topics = all_topics([BRANCH_PLACEHOLDER])
    return {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "Gongdan events",
            "version": VERSION,
            "description": ABOUT,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": {
                "host": "127.0.0.1:19092",
                "protocol": "kafka",
                "description": "The broker of a one-machine run; elsewhere it is the organisation's Kafka cluster.",
            }
        },
        "channels": {_channel_id(topic.name): _channel(topic) for topic in topics},
        "operations": _operations(topics),
        "components": {
            "messages": _messages(),
            "schemas": {
                **payload_schemas(),
                "EventHeaders": _headers(sequence=True),
                "CommandHeaders": _headers(sequence=False),
                "DeadLetterHeaders": _dead_letter_headers(),
            },
        },
    }


def _channel_id(topic: str) -> str:
    """A topic's name, in the letters that an id may have."""
    return topic.replace(BRANCH_PLACEHOLDER, "branch")


def _message_ids(topic: Topic) -> list[str]:
    if topic.name == BRANCH_CHANNEL:
        return list(BRANCH_TYPES)
    if topic.name == INCARNATION:
        return ["log.identity"]
    own = [name for name, model in MODELS.items() if _topic_of(model) == topic.name]
    return own or ["dead.letter"]


def _topic_of(model: EventModel) -> str:
    topic: str = model.TOPIC  # type: ignore[attr-defined]
    return topic


def _channel(topic: Topic) -> dict[str, Any]:
    retention = -1 if topic.retention_hours < 0 else topic.retention_hours * HOUR_MS
    channel: dict[str, Any] = {
        "address": topic.name,
        "description": topic.about,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _message_ids(topic)},
        "bindings": {
            "kafka": {
                "partitions": topic.partitions,
                "topicConfiguration": {"retention.ms": retention},
                "bindingVersion": BINDING_VERSION,
            }
        },
    }
    if BRANCH_PLACEHOLDER in topic.name:
        channel["parameters"] = {
            "branch": {"description": "A branch of the policy pack, by its id.", "examples": ["jinan", "qingdao"]}
        }
    return channel


def _operations(topics: Iterable[Topic]) -> dict[str, Any]:
    """What each side sends and receives; `x-service` names the side."""
    operations: dict[str, Any] = {}
    for topic in topics:
        for action, sides in (("send", topic.producers), ("receive", topic.consumers)):
            for side in sides:
                identity = f"{side.replace(' ', '-')}.{action}.{_channel_id(topic.name)}"
                reference = f"#/channels/{_channel_id(topic.name)}"
                operations[identity] = {
                    "action": action,
                    "channel": {"$ref": reference},
                    "messages": [{"$ref": f"{reference}/messages/{name}"} for name in _message_ids(topic)],
                    "x-service": side,
                }
    return dict(sorted(operations.items()))


def _messages() -> dict[str, Any]:
    data = examples()
    messages = {name: _message(name, model, data[name]) for name, model in MODELS.items()}
    messages["dead.letter"] = {
        "name": "dead.letter",
        "title": "Dead letter",
        "summary": "A record that could not be applied: its bytes and headers as they came, and why.",
        "headers": {"$ref": SCHEMAS + "DeadLetterHeaders"},
        "payload": {"description": "The original value; it may be anything."},
    }
    messages["log.identity"] = {
        "name": "log.identity",
        "title": "Identity of the log",
        "summary": "The first record is the identity of this log; it has no CloudEvents headers.",
        "payload": {"type": "string", "format": "uuid"},
        "contentType": "text/plain",
    }
    return messages


def _message(name: str, model: EventModel, data: dict[str, Any]) -> dict[str, Any]:
    command = name in COMMANDS
    summary = (model.__doc__ or "").strip()
    return {
        "name": name,
        "title": model.__name__,
        **({"summary": summary} if summary else {}),
        "headers": {
            "allOf": [
                {"$ref": SCHEMAS + ("CommandHeaders" if command else "EventHeaders")},
                {
                    "type": "object",
                    "properties": {
                        "ce_type": {"const": name},
                        "ce_dataschema": {"const": schema_urn(name, 1)},
                    },
                },
            ]
        },
        "payload": {"$ref": SCHEMAS + model.__name__},
        "bindings": {"kafka": {"key": {"type": "string", "format": "uuid"}, "bindingVersion": BINDING_VERSION}},
        "examples": [{"name": name, "headers": _example_headers(name, model), "payload": data}],
    }


def _example_headers(name: str, model: EventModel) -> dict[str, str]:
    source = "branch/jinan" if _topic_of(model) == BRANCH_REPLIES else _topic_of(model).rpartition(".")[2]
    subject = EXAMPLE_TICKET
    if name in ("incident.opened", "incident.closed"):
        subject = EXAMPLE_INCIDENT
    if _topic_of(model) == CONTROL:
        source, subject = "review", EXAMPLE_REQUEST
    headers = {
        "ce_specversion": SPEC_VERSION,
        "ce_id": "019b0a51-7c9f-7b20-8a34-d5e6f7a8b9c0",
        "ce_source": SOURCE_PREFIX + source,
        "ce_type": name,
        "ce_subject": subject,
        "ce_time": EXAMPLE_TIME,
        "ce_dataschema": schema_urn(name, 1),
        "content-type": "application/json",
    }
    return headers if name in COMMANDS else {**headers, "ce_sequence": "1"}


def _headers(*, sequence: bool) -> dict[str, Any]:
    source = "who published it" if sequence else f"`{SOURCE_PREFIX}branch/<branch id>`, the branch that gives it"
    properties: dict[str, Any] = {
        "ce_specversion": {"const": SPEC_VERSION},
        "ce_id": {"type": "string", "format": "uuid", "description": "Makes a repeat recognisable."},
        "ce_source": {"type": "string", "pattern": f"^{SOURCE_PREFIX}", "description": f"Says {source}."},
        "ce_type": {"type": "string"},
        "ce_subject": {"type": "string", "format": "uuid", "description": "What it is about; also the record's key."},
        "ce_time": {"type": "string", "format": "date-time", "description": "When it happened, with an offset."},
        "ce_dataschema": {"type": "string", "pattern": "^urn:gongdan:.+:[0-9]+$"},
        "content-type": {"const": "application/json"},
        "traceparent": {"type": "string", "description": "W3C trace context."},
    }
    required = ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time"]
    if sequence:
        properties["ce_sequence"] = {
            "type": "string",
            "pattern": "^[1-9][0-9]*$",
            "description": "The subject's version at the publisher: 1, 2, 3 … without holes. On a branch's topic it "
            "counts the records of that ticket for branches.",
        }
        required.append("ce_sequence")
    else:
        properties["ce_signature"] = {
            "type": "string",
            "contentEncoding": "base64",
            "description": "HMAC-SHA256 under the branch's reply key, needed where dispatch asks for it, over "
            f"{', '.join(SIGNED_HEADERS)} as sent, and the record's value, in this order, each as its length in bytes, "
            "a colon, the bytes and a comma.",
        }
    return {"type": "object", "properties": properties, "required": required}


def _dead_letter_headers() -> dict[str, Any]:
    words = {
        "dead_topic": "Topic of the original record.",
        "dead_partition": "Its partition.",
        "dead_offset": "Its offset.",
        "dead_service": "The service that could not apply it.",
        "dead_error": "Why, without any value of the data.",
        "dead_attempts": "How often it was tried.",
    }
    return {
        "type": "object",
        "description": "The headers of the original record, and these.",
        "properties": {name: {"type": "string", "description": text} for name, text in words.items()},
        "required": list(words),
    }


def render() -> str:
    """The document as YAML."""
    head = "# Generated by `python -m shared.contracts.asyncapi` (make asyncapi). Do not edit.\n"
    body: str = yaml.dump(document(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=118)
    return head + body


def main() -> None:
    sys.stdout.write(render())


if __name__ == "__main__":
    main()
