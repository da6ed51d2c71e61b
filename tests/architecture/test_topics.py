"""Every topic has a writer and a reader; every event comes from somewhere and means something to somebody."""

import re
from pathlib import Path

import pytest

from shared.contracts.registry import COMMANDS, MODELS
from shared.contracts.topics import BRANCH_REPLIES, CONTROL, INCARNATION, Topic, all_topics, consumed_topics, topic_file
from shared.messaging.projection import Projection
from shared.policy import load_pack
from tests.architecture.services import PROJECT, SERVICES, built

OUTSIDE = {"branch", "operations", "topic creator"}

# Events that no service acts on, and why they are published all the same.
TOLD_ONLY = {
    "incident.opened": "for wallboards and reports; each member ticket learns of it by incident.joined",
    "incident.closed": "for wallboards and reports; it changes nothing for the member tickets",
}


@pytest.fixture(scope="module")
def projections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Projection[object]]:
    found: dict[str, Projection[object]] = {}
    for service in SERVICES:
        consumer = built(service, tmp_path_factory.mktemp(service)).consumer
        assert consumer is not None
        found[service] = consumer._projection
    return found


def topic_of(name: str) -> str:
    topic: str = MODELS[name].TOPIC  # type: ignore[attr-defined]
    return topic


@pytest.mark.parametrize("topic", all_topics(["jinan"]), ids=lambda topic: topic.name)
def test_every_topic_has_a_producer_and_a_consumer(topic: Topic) -> None:
    assert topic.producers
    assert topic.consumers
    assert set(topic.producers) | set(topic.consumers) <= {*SERVICES, *OUTSIDE}


def test_topic_names_are_unique_and_have_no_underscore() -> None:
    # A dot and an underscore are one letter in Kafka's metric names, so only one of them is used.
    names = [topic.name for topic in all_topics(branch.id for branch in load_pack("mobile_operator").branches)]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"gongdan(\.[a-z0-9-]+)+", name) for name in names)


def test_no_branch_takes_the_name_of_a_topic_of_ours() -> None:
    own = {topic.name for topic in topic_file().topics} | {f"{topic.name}.dlq" for topic in topic_file().topics}
    for branch in load_pack("mobile_operator").branches:
        assert f"gongdan.dispatch.{branch.id}" not in own


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_handles_only_what_it_reads(service: str, projections: dict[str, Projection[object]]) -> None:
    read = set(consumed_topics(service))
    for name in projections[service].types:
        assert topic_of(name) in read, name


def test_every_event_means_something_to_somebody(projections: dict[str, Projection[object]]) -> None:
    handled = {name for projection in projections.values() for name in projection.types}
    unused = {name for name in MODELS if topic_of(name) != CONTROL} - handled
    assert unused == TOLD_ONLY.keys()


def test_every_topic_a_service_reads_means_something_to_it(projections: dict[str, Projection[object]]) -> None:
    for service, projection in projections.items():
        for topic in set(consumed_topics(service)) - {CONTROL, INCARNATION}:
            assert any(topic_of(name) == topic for name in projection.types), f"{service} reads {topic} for nothing"


def code_of(folder: Path) -> str:
    """The code of a folder, without what a service makes of the events of others."""
    files = [path for path in sorted(folder.rglob("*.py")) if path.name != "consumers.py"]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_event_is_made_by_the_producer_of_its_topic(name: str) -> None:
    topic = next(topic for topic in topic_file().topics if topic.name == topic_of(name))
    word = MODELS[name].__name__
    if topic.name == CONTROL:
        assert f"{word}(" in code_of(PROJECT / "shared" / "messaging")
    elif topic.name == BRANCH_REPLIES:
        assert name in COMMANDS
    else:
        (producer,) = topic.producers
        assert re.search(rf"\b{word}\b", code_of(PROJECT / "services" / producer))
        others = [code_of(PROJECT / "services" / service) for service in SERVICES if service != producer]
        assert not any(re.search(rf"\b{word}\(", code) for code in others)
