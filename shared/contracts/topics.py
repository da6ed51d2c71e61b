"""The topics as data (`topics.yaml`), expanded for the branches of a policy pack."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

INTAKE = "gongdan.intake"
REVIEW = "gongdan.review"
DISPATCH = "gongdan.dispatch"
SLA = "gongdan.sla"
BRANCH_REPLIES = "gongdan.branch.replies"
CONTROL = "gongdan.control"
INCARNATION = "gongdan.incarnation"

BRANCH_PLACEHOLDER = "{branch}"


class Topic(BaseModel):
    """One topic. `retention_hours` is in elapsed hours; -1 keeps records for ever."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    partitions: int
    retention_hours: int
    dead_letters: bool
    about: str


class TopicFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    dead_letter_retention_hours: int
    topics: tuple[Topic, ...]


@cache
def topic_file() -> TopicFile:
    """The parsed `topics.yaml`, with `{branch}` not yet expanded."""
    text = Path(__file__).with_name("topics.yaml").read_text(encoding="utf-8")
    return TopicFile.model_validate(yaml.safe_load(text))


def branch_topic(branch: str) -> str:
    return f"{DISPATCH}.{branch}"


def dead_letter_topic(topic: str) -> str:
    return f"{topic}.dlq"


def all_topics(branches: Iterable[str]) -> list[Topic]:
    """Every topic that must exist for an organisation with these branches, dead letters included."""
    branch_ids = list(branches)
    file = topic_file()
    expanded: list[Topic] = []
    for topic in file.topics:
        if BRANCH_PLACEHOLDER in topic.name:
            expanded += [
                topic.model_copy(update={"name": topic.name.replace(BRANCH_PLACEHOLDER, branch)})
                for branch in branch_ids
            ]
        else:
            expanded.append(topic)
        if topic.dead_letters:
            expanded.append(
                topic.model_copy(
                    update={
                        "name": dead_letter_topic(topic.name),
                        "producers": topic.consumers,
                        "consumers": ("operations",),
                        "partitions": 1,
                        "retention_hours": file.dead_letter_retention_hours,
                        "dead_letters": False,
                        "about": f"Records of {topic.name} that could not be applied, and why.",
                    }
                )
            )
    return expanded


@cache
def producers_of(name: str) -> tuple[str, ...]:
    """Who publishes to a topic of `topics.yaml`; nobody for a name that is not there."""
    return next((topic.producers for topic in topic_file().topics if topic.name == name), ())


def consumed_topics(service: str) -> list[str]:
    """The topics that a service reads, in the order of the file."""
    return [topic.name for topic in topic_file().topics if service in topic.consumers]
