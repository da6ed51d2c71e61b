"""Who may do what in Kafka, from `topics.yaml` and the branches of a policy pack; shown, and applied to a cluster.

    python -m deploy.kafka.access show
    python -m deploy.kafka.access passwords --file passwords.json          # adds what is missing
    python -m deploy.kafka.access apply --bootstrap kafka:9092 --passwords passwords.json
    python -m deploy.kafka.access reply-key --branch jinan --master-file reply_key

`apply` connects as the super user (`KAFKA_SECURITY_PROTOCOL`, `KAFKA_USERNAME`, `KAFKA_PASSWORD_FILE`,
`KAFKA_CA_FILE`). It may run any number of times: it sets the passwords, adds what is missing and takes away what
principals of ours (`gongdan.…`) have beyond this list. What must stay true: every name is literal, none is a prefix
or `*`, and nobody but the super user may do what is not listed.
"""

import argparse
import asyncio
import base64
import json
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from aiokafka.errors import KafkaError

from deploy.kafka.admin import Admin, Entry, Operation, Refused, Resource
from shared.contracts.signature import MalformedKey, branch_key, read_keys
from shared.contracts.topics import Topic, all_topics, branch_topic
from shared.messaging.broker import BrokerAddress
from shared.policy.loader import load_pack
from shared.settings import broker_from_environment

OURS = "gongdan."
SERVICES = ("intake", "review", "dispatch", "sla")
ADMIN = f"{OURS}admin"
TOPICS = f"{OURS}topics"
OPERATOR = f"{OURS}operator"


def service_principal(service: str) -> str:
    return f"{OURS}{service}"


def branch_principal(branch: str) -> str:
    """The branch's user name, and the one consumer group that it may use."""
    return f"{OURS}branch.{branch}"


def principals(branches: Iterable[str]) -> list[str]:
    """Everybody who gets a password, without the super user."""
    own = [service_principal(service) for service in SERVICES]
    return [*own, TOPICS, OPERATOR, *(branch_principal(branch) for branch in branches)]


def entries(branches: Iterable[str]) -> frozenset[Entry]:
    """Every right that anybody has. Reading, writing and altering imply describing.

    Raises:
        ValueError: a branch's topic has the name of another topic.
    """
    ids = list(branches)
    topics = all_topics(ids)
    if len({topic.name for topic in topics}) < len(topics):
        raise ValueError("two topics have the same name: a branch is called like a topic of ours")
    of_branch = {branch_topic(branch): branch for branch in ids}
    found: set[Entry] = set()
    for topic in topics:
        for operation, roles in ((Operation.WRITE, topic.producers), (Operation.READ, topic.consumers)):
            for role in roles:
                for principal in _who(role, topic, of_branch):
                    found.add(Entry(principal, operation, Resource.TOPIC, topic.name))
        found.add(Entry(OPERATOR, Operation.READ, Resource.TOPIC, topic.name))
        found.add(Entry(TOPICS, Operation.CREATE, Resource.TOPIC, topic.name))
        found.add(Entry(TOPICS, Operation.ALTER, Resource.TOPIC, topic.name))
    for principal in principals(ids):
        if principal != TOPICS:
            found.add(Entry(principal, Operation.READ, Resource.GROUP, principal))
            found.add(Entry(OPERATOR, Operation.DESCRIBE, Resource.GROUP, principal))
    return frozenset(found)


def _who(role: str, topic: Topic, of_branch: Mapping[str, str]) -> Iterator[str]:
    """The principals behind a name that `topics.yaml` uses."""
    if role == "branch" and topic.name in of_branch:
        yield branch_principal(of_branch[topic.name])
    elif role == "branch":
        yield from (branch_principal(branch) for branch in of_branch.values())
    elif role == "topic creator":
        yield TOPICS
    elif role == "operations":
        yield OPERATOR
    else:
        yield service_principal(role)


def with_missing(passwords: Mapping[str, str], branches: Iterable[str]) -> dict[str, str]:
    """These passwords, and a random one for each principal that has none; nobody else's."""
    wanted = [ADMIN, *principals(branches)]
    return {principal: passwords.get(principal) or secrets.token_urlsafe(24) for principal in wanted}


async def apply(broker: BrokerAddress, branches: Iterable[str], passwords: Mapping[str, str]) -> str:
    """Make the cluster's users and rights what they should be; returns what changed.

    Raises:
        Refused: the broker did not do it; the text says what.
        KafkaError, OSError: it cannot be reached.
        KeyError: a principal has no password.
    """
    ids = list(branches)
    wanted = entries(ids)
    given = {principal: passwords[principal] for principal in principals(ids)}
    async with Admin(broker) as admin:
        existing = {entry for entry in await admin.entries() if entry.principal.startswith(OURS)}
        await admin.set_passwords(given)
        await admin.add(wanted - existing)
        await admin.remove(existing - wanted)
        gone = {entry.principal for entry in existing} - given.keys() - {ADMIN}
        await admin.remove_users(gone)
    changes = f"{len(wanted - existing)} rights added, {len(existing - wanted)} removed"
    return f"{len(given)} passwords set, {changes}" + "".join(f", {name} removed" for name in sorted(gone))


def show(branches: Iterable[str]) -> str:
    rows = sorted((e.principal, e.resource.name.lower(), e.name, e.operation.name.lower()) for e in entries(branches))
    return "\n".join(f"{principal:<28} {right:<9} {resource:<6} {name}" for principal, resource, name, right in rows)


def reply_keys(branch: str, masters: str) -> list[str]:
    """A branch's key under each master, in base64. Raises `MalformedKey`."""
    return [base64.b64encode(branch_key(master, branch)).decode() for master in read_keys(masters.strip())]


def write_passwords(path: Path, branches: Iterable[str]) -> int:
    """Add what is missing to the JSON file, which only its owner can read; returns how many were made."""
    known: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    passwords = with_missing(known, branches)
    new = path.with_name(path.name + ".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(passwords, file, indent=2)
    new.replace(path)
    return len(passwords.keys() - known.keys())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.kafka.access", description="Who may do what in Kafka.")
    commands = parser.add_subparsers(dest="command", required=True)
    added = {
        "show": commands.add_parser("show", help="print every right"),
        "apply": commands.add_parser("apply", help="bring users and rights of a cluster up to date"),
        "passwords": commands.add_parser("passwords", help="make the passwords that are missing"),
        "reply-key": commands.add_parser("reply-key", help="print the key with which a branch signs its commands"),
    }
    for command in added.values():
        command.add_argument("--pack", default="mobile_operator", help="policy pack whose branches are meant")
    added["apply"].add_argument("--bootstrap", required=True, help="host:port[,host:port…] of Kafka")
    added["apply"].add_argument("--passwords", type=Path, required=True, help="JSON file: principal to password")
    added["passwords"].add_argument("--file", type=Path, required=True, help="JSON file: principal to password")
    added["reply-key"].add_argument("--branch", required=True)
    added["reply-key"].add_argument("--master-file", type=Path, required=True, help="holds DISPATCH_REPLY_KEY")
    return parser


def main() -> None:
    arguments = _parser().parse_args()
    branches = [branch.id for branch in load_pack(arguments.pack).branches]
    try:
        if arguments.command == "show":
            print(show(branches))
        elif arguments.command == "passwords":
            print(f"{write_passwords(arguments.file, branches)} passwords made")
        elif arguments.command == "apply":
            passwords = json.loads(arguments.passwords.read_text(encoding="utf-8"))
            print(asyncio.run(apply(broker_from_environment(arguments.bootstrap), branches, passwords)))
        elif arguments.branch not in branches:
            sys.exit(f"access: {arguments.branch} is no branch of {arguments.pack}")
        else:
            print("\n".join(reply_keys(arguments.branch, arguments.master_file.read_text(encoding="utf-8"))))
    except KeyError as error:
        sys.exit(f"access: no password for {error}; make it with: python -m deploy.kafka.access passwords")
    except (KafkaError, Refused, MalformedKey, OSError, ValueError) as error:
        sys.exit(f"access: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
