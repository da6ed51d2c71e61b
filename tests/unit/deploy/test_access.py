"""Everybody has the rights that topics.yaml gives, by literal names, and nobody has any other."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.kafka import access
from deploy.kafka.admin import EVERY_HOST, LITERAL, Entry, Operation, Resource
from shared.contracts.signature import branch_key, read_key
from shared.contracts.topics import all_topics
from shared.policy.loader import load_pack
from tests.architecture.services import SERVICES

BRANCHES = [branch.id for branch in load_pack("mobile_operator").branches]
ENTRIES = access.entries(BRANCHES)
TOPICS = {topic.name for topic in all_topics(BRANCHES)}


def rights(principal: str) -> set[tuple[str, str, str]]:
    return {
        (entry.operation.name.lower(), entry.resource.name.lower(), entry.name)
        for entry in ENTRIES
        if entry.principal == principal
    }


def test_every_name_is_literal_and_is_one_that_exists() -> None:
    everybody = {*access.principals(BRANCHES)}
    for entry in ENTRIES:
        assert (entry.pattern, entry.host) == (LITERAL, EVERY_HOST)
        assert entry.name in (TOPICS if entry.resource is Resource.TOPIC else everybody), entry
        assert entry.resource in (Resource.TOPIC, Resource.GROUP)
        assert entry.operation is not Operation.ALL
        assert entry.principal in everybody


def test_every_topic_has_a_writer_and_a_reader_besides_the_operator() -> None:
    for topic in TOPICS:
        writers = {entry.principal for entry in ENTRIES if entry[1:4] == (Operation.WRITE, Resource.TOPIC, topic)}
        readers = {entry.principal for entry in ENTRIES if entry[1:4] == (Operation.READ, Resource.TOPIC, topic)}
        assert writers, topic
        assert access.OPERATOR in readers
        assert readers > {access.OPERATOR} or topic.endswith(".dlq"), topic


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_branch_reads_its_topic_writes_replies_and_nothing_else(branch: str) -> None:
    assert rights(f"gongdan.branch.{branch}") == {
        ("read", "topic", f"gongdan.dispatch.{branch}"),
        ("write", "topic", "gongdan.branch.replies"),
        ("read", "group", f"gongdan.branch.{branch}"),
    }


def test_only_dispatch_writes_to_the_branches() -> None:
    for branch in BRANCHES:
        on_topic = {entry for entry in ENTRIES if entry.name == f"gongdan.dispatch.{branch}"}
        writers = {entry.principal for entry in on_topic if entry.operation is Operation.WRITE}
        readers = {entry.principal for entry in on_topic if entry.operation is Operation.READ}
        assert writers == {"gongdan.dispatch"}
        assert readers == {f"gongdan.branch.{branch}", access.OPERATOR}


def test_a_service_has_its_topics_and_its_group() -> None:
    assert rights("gongdan.review") == {
        ("write", "topic", "gongdan.review"),
        ("write", "topic", "gongdan.control"),
        *(("read", "topic", f"gongdan.{name}") for name in ("intake", "dispatch", "sla", "control", "incarnation")),
        *(("write", "topic", f"gongdan.{name}.dlq") for name in ("intake", "dispatch", "sla", "control")),
        ("read", "group", "gongdan.review"),
    }


def test_the_services_are_those_that_exist() -> None:
    assert access.SERVICES == SERVICES


def test_the_operator_reads_everything_and_changes_nothing() -> None:
    operations = {operation for operation, _, _ in rights(access.OPERATOR)}
    assert operations == {"read", "describe"}
    assert {
        name for operation, kind, name in rights(access.OPERATOR) if (operation, kind) == ("read", "topic")
    } == TOPICS


def test_the_maker_of_topics_writes_nothing_but_the_identity() -> None:
    written = {name for operation, _, name in rights(access.TOPICS) if operation == "write"}
    assert written == {"gongdan.incarnation"}
    assert not {operation for operation, _, _ in rights(access.TOPICS)} & {"read", "delete"}


def test_the_super_user_needs_no_entry_and_a_password() -> None:
    assert rights(access.ADMIN) == set()
    assert access.with_missing({}, ["jinan"]).keys() == {access.ADMIN, *access.principals(["jinan"])}


@pytest.mark.parametrize("branch", ["dlq", "jinan"])
def test_a_branch_that_is_called_like_a_topic_is_refused(branch: str) -> None:
    with pytest.raises(ValueError, match="same name"):
        access.entries(["jinan", branch])


def test_a_branch_that_left_the_pack_keeps_nothing() -> None:
    left = ENTRIES - access.entries(set(BRANCHES) - {"jinan"})
    gone = {entry for entry in left if entry.principal == "gongdan.branch.jinan"}
    assert len(gone) == 3
    assert all("jinan" in entry.name for entry in left - gone)


def test_passwords_are_added_and_stay_and_are_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "passwords.json"
    assert access.write_passwords(path, ["jinan"]) == 8
    first = json.loads(path.read_text())
    assert access.write_passwords(path, ["jinan", "qingdao"]) == 1
    second = json.loads(path.read_text())
    assert second.items() > first.items()
    assert len(set(second.values())) == len(second)
    assert path.stat().st_mode & 0o777 == 0o600


def command(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.kafka.access", *words], capture_output=True, text=True, check=False
    )


def test_the_reply_key_of_a_branch_is_printed_and_of_no_stranger(tmp_path: Path) -> None:
    master = tmp_path / "reply_key"
    master.write_text(base64.b64encode(bytes(32)).decode() + "\n")
    printed = command("reply-key", "--branch", "jinan", "--master-file", str(master)).stdout
    assert read_key(printed) == branch_key(bytes(32), "jinan")
    stranger = command("reply-key", "--branch", "nowhere", "--master-file", str(master))
    assert (stranger.returncode, stranger.stdout) == (1, "")
    assert "nowhere is no branch" in stranger.stderr


def test_every_right_is_shown() -> None:
    assert len(access.show(BRANCHES).splitlines()) == len(ENTRIES)


def test_an_entry_is_told_apart_by_all_its_parts() -> None:
    entry = Entry("gongdan.sla", Operation.READ, Resource.TOPIC, "gongdan.intake")
    assert entry in ENTRIES
    assert entry._replace(pattern=4) not in ENTRIES
