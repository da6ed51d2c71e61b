"""Commands for the streams of events: replay at a publisher, pause and resume of a reader."""

import argparse
from typing import Any

from deploy.console import show
from deploy.console.client import Target

REPLAY = """Publish events again, at their publisher. Readers drop what they have seen, so it is safe to repeat.

Without --topic: everything of this service that other services read. The outbox keeps events for
OUTBOX_RETENTION_DAYS after their publication (7 unless set); what is older cannot be sent again."""

REBUILD = """Build what a service holds solely because of events again, beside the living rows, and compare.

Reads the log from its beginning while the service goes on. A ticket whose first events the log no longer holds is
counted and left alone; a replay at the publishers brings back what their outboxes still keep. Only intake has such
a state."""


def add(named: Any) -> None:
    replay = named.add_parser(
        "replay",
        help="publish events again",
        description=REPLAY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    replay.add_argument("of", metavar="SERVICE", help="the publisher")
    replay.add_argument("--ticket", help="number or id")
    replay.add_argument("--topic")
    replay.add_argument("--since", help="published at or after, real time, as 2026-11-22T08:00:00+08:00")
    replay.add_argument("--reason", required=True)
    replay.set_defaults(run=_replay)
    rebuild = named.add_parser(
        "rebuild",
        help="build a read state again from the events and compare",
        description=REBUILD,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rebuild.add_argument("of", metavar="SERVICE")
    what_to_do = rebuild.add_mutually_exclusive_group(required=True)
    what_to_do.add_argument("--check", action="store_true", help="compare only; 0 differences are expected")
    what_to_do.add_argument("--apply", action="store_true", help="also replace what differs")
    rebuild.add_argument("--reason", required=True)
    rebuild.set_defaults(run=_rebuild)
    for verb, what in (("pause", "stop reading a topic; nothing is lost, the lag grows"), ("resume", "read it again")):
        parser = named.add_parser(verb, help=what)
        parser.add_argument("of", metavar="SERVICE", help="the reader")
        parser.add_argument("topic", help="a topic, or '*' for every one")
        parser.add_argument("--reason", required=True)
        parser.set_defaults(run=_pause_or_resume)


def _rebuild(services: Target, arguments: argparse.Namespace) -> bool:
    """True when nothing differs, or all that differed was replaced."""
    request = {"replace": arguments.apply, "reason": arguments.reason}
    answer = services.call(arguments.of, "POST", "/v1/ops/rebuild", json=request)
    if arguments.json:
        show.as_json(answer)
    else:
        print(f"{answer['records']} records read, {answer['compared']} tickets compared in {answer['seconds']} s")
        print(f"differences: {answer['differences']}, replaced: {answer['replaced']}")
        for each in answer["different"]:
            print(f"  {each['subject']}: {', '.join(each['what'])}")
        if answer["incomplete"]:
            print(f"not compared, for the log no longer holds all their events: {answer['incomplete']}")
            print(f"  {', '.join(answer['incomplete_subjects'])}")
        if answer["moving"]:
            print(f"not compared, for their events are still on their way: {answer['moving']}")
    return bool(answer["differences"] == answer["replaced"])


def _replay(services: Target, arguments: argparse.Namespace) -> bool:
    given = {name: getattr(arguments, name) for name in ("ticket", "topic", "since", "reason")}
    request = {name: value for name, value in given.items() if value is not None}
    marked, after = 0, 0
    while after is not None:
        answer = services.call(arguments.of, "POST", "/v1/ops/replay", json=request | {"after": after})
        marked, after = marked + answer["marked"], answer["next_after"]
    if arguments.json:
        show.as_json({"marked": marked})
    else:
        print(f"{marked} events of {arguments.of} will be published again")
    return True


def _pause_or_resume(services: Target, arguments: argparse.Namespace) -> bool:
    """True when there is a pause afterwards, or one was lifted."""
    request = {"topic": arguments.topic, "reason": arguments.reason}
    answer = services.call(arguments.of, "POST", f"/v1/ops/{arguments.command}", json=request)
    if arguments.json:
        show.as_json(answer)
    else:
        for topic in answer["lifted"]:
            print(f"{arguments.of} reads {'every topic' if topic == '*' else topic} again")
        for each in answer["paused"]:
            print(
                f"{arguments.of} does not read {each['topic']}: {show.safe(each['paused_by'] + ': ' + each['reason'])}"
            )
        if arguments.command == "resume" and not answer["lifted"]:
            print("nothing was paused by that name")
    return bool(answer["lifted"] if arguments.command == "resume" else answer["paused"])
