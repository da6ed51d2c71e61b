"""Commands for dead letters: list, show, redrive, discard."""

import argparse
from typing import Any

from deploy.console import show
from deploy.console.client import Target, Unusable

DISCARD = """Give dead letters up, for a reason.

The effect of such an event is LOST to this service for good: a state, a clock or an entry that it would have made will
never be there. Later events of the same ticket, parked behind it, then take effect without it. Try redrive first."""


def add(named: Any) -> None:
    dead = named.add_parser("dead", help="dead letters: list, show, redrive, discard")
    verbs = dead.add_subparsers(dest="verb", required=True, metavar="VERB")

    listing = verbs.add_parser("list", help="newest first")
    listing.add_argument("of", metavar="SERVICE")
    listing.add_argument("--state", choices=("open", "redriven", "discarded"))
    _filters(listing)
    listing.add_argument("--limit", type=int, default=50)
    listing.add_argument("--cursor", help="the next page, as the page before named it")
    listing.set_defaults(run=_list)

    showing = verbs.add_parser("show", help="one, with its text masked")
    showing.add_argument("of", metavar="SERVICE")
    showing.add_argument("number", type=int)
    showing.add_argument("--raw", action="store_true", help="byte by byte, as base64; may hold personal data; audited")
    showing.set_defaults(run=_show)

    redriving = verbs.add_parser("redrive", help="apply again; what was parked behind it follows")
    redriving.add_argument("of", metavar="SERVICE")
    redriving.add_argument("numbers", type=int, nargs="*", metavar="NUMBER")
    redriving.add_argument("--all", action="store_true", help="every open one that fits the filters, oldest first")
    _filters(redriving)
    redriving.add_argument("--since", help="failed at or after, as 2026-11-22T08:00:00+08:00")
    redriving.add_argument("--reason", required=True)
    redriving.set_defaults(run=_redrive)

    discarding = verbs.add_parser(
        "discard",
        help="give up: the event's effect is lost",
        description=DISCARD,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    discarding.add_argument("of", metavar="SERVICE")
    discarding.add_argument("numbers", type=int, nargs="+", metavar="NUMBER")
    discarding.add_argument("--reason", required=True)
    discarding.set_defaults(run=_discard)


def _filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--topic")
    parser.add_argument("--error", help="a part of the reason, in any case")


def _list(services: Target, arguments: argparse.Namespace) -> bool:
    query = {name: getattr(arguments, name) for name in ("state", "topic", "error", "limit", "cursor")}
    answer = services.call(
        arguments.of,
        "GET",
        "/v1/ops/dead-letters",
        params={name: value for name, value in query.items() if value is not None},
    )
    if arguments.json:
        show.as_json(answer)
        return True
    show.table(
        ("number", "failed (UTC)", "state", "topic", "type", "version", "key", "reason"),
        (
            (
                *(each["id"], show.moment(each["failed_at"]), each["state"], each["topic"]),
                *(each["type"], each["version"], each["key"], each["error"]),
            )
            for each in answer["dead_letters"]
        ),
    )
    if answer["next_cursor"]:
        print(f"more: --cursor {answer['next_cursor']}")
    return True


def _show(services: Target, arguments: argparse.Namespace) -> bool:
    path = f"/v1/ops/dead-letters/{arguments.number}{'/raw' if arguments.raw else ''}"
    answer = services.call(arguments.of, "GET", path)
    if arguments.json:
        show.as_json(answer)
        return True
    for name, value in answer.items():
        if name == "headers":
            print("headers:")
            for header, content in value:
                print(f"  {show.safe(header)}: {show.safe(content)}")
        else:
            print(f"{name}: {show.cell(value, wide=True)}")
    return True


def _redrive(services: Target, arguments: argparse.Namespace) -> bool:
    if bool(arguments.numbers) == arguments.all:
        raise Unusable("redrive needs numbers, or --all (with --topic, --error, --since to narrow it)")
    narrowed = {name: getattr(arguments, name) for name in ("topic", "error", "since")}
    request = {name: value for name, value in narrowed.items() if value is not None} | {"reason": arguments.reason}
    if arguments.numbers:
        if narrowed != dict.fromkeys(narrowed):
            raise Unusable("numbers and filters do not go together")
        request["ids"] = arguments.numbers
    results: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        more = {} if arguments.numbers else {"after": after}
        answer = services.call(arguments.of, "POST", "/v1/ops/dead-letters:redrive", json=request | more)
        results += answer["results"]
        after = answer["next_after"]
    return _told(results, arguments, "redriven")


def _discard(services: Target, arguments: argparse.Namespace) -> bool:
    request = {"ids": arguments.numbers, "reason": arguments.reason}
    answer = services.call(arguments.of, "POST", "/v1/ops/dead-letters:discard", json=request)
    return _told(answer["results"], arguments, "discarded")


def _told(results: list[dict[str, Any]], arguments: argparse.Namespace, wanted: str) -> bool:
    """True when all of them are in the state that was asked for."""
    if arguments.json:
        show.as_json({"results": results})
    else:
        show.table(
            ("number", "state", "released", "what happened"),
            ((each["id"], each["state"], each["released"], each["detail"]) for each in results),
            wide=True,
        )
    return all(each["state"] == wanted for each in results)
