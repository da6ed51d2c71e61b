"""Commands that only look: status, positions, parked, audit, keys."""

import argparse
from typing import Any

from deploy.console import show
from deploy.console.client import Target, Unreachable

STATUS = ("service", "ready", "backlog", "oldest", "lag", "dead", "parked", "paused")


def add(named: Any) -> None:
    status = named.add_parser(
        "status", help="readiness, backlog, lag, dead letters, parked events, pauses: all services"
    )
    status.set_defaults(run=_status)
    positions = named.add_parser("positions", help="where a service's reading stands, by partition")
    positions.add_argument("of", metavar="SERVICE")
    positions.set_defaults(run=_positions)
    parked = named.add_parser("parked", help="events that wait, what they wait for, and how long")
    parked.add_argument("of", metavar="SERVICE")
    parked.add_argument("--ticket", help="of one ticket: its number or id")
    parked.add_argument("--limit", type=int, default=50)
    parked.set_defaults(run=_parked)
    audit = named.add_parser("audit", help="compare the audit trail of a service with its chain of seals")
    audit.add_argument("of", metavar="SERVICE")
    audit.add_argument("--expect", metavar="NUMBER:HASH", help="a head noted earlier: shows a chain that was cut off")
    audit.add_argument("--first", type=int, default=1, help="begin at this seal")
    audit.set_defaults(run=_audit)
    keys = named.add_parser("keys", help="when each API key was last used at a service")
    keys.add_argument("of", metavar="SERVICE")
    keys.set_defaults(run=_keys)


def _status(services: Target, arguments: argparse.Namespace) -> bool:
    """True when every service is ready. Raises `Unreachable` only when none answers."""
    found = {name: _state_of(services, name) for name in services.services}
    if all("error" in state for state in found.values()):
        raise Unreachable("no service answers: " + "; ".join(state["error"] for state in found.values()))
    if arguments.json:
        show.as_json(found)
    else:
        show.table(STATUS, (_line(name, state) for name, state in found.items()))
        for name, state in found.items():
            for remark in _remarks(state):
                print(f"{name}: {show.safe(remark)}")
    return all(state.get("readiness", {}).get("status") == "ready" for state in found.values())


def _state_of(services: Target, name: str) -> dict[str, Any]:
    """What one service says of itself; a service with its database away still tells its readiness."""
    try:
        state: dict[str, Any] = {"readiness": services.readiness(name)}
    except Unreachable as error:
        return {"error": str(error)}
    answer = services.try_call(name, "/v1/ops/status")
    return state | ({"refused": answer} if isinstance(answer, str) else {"figures": answer})


def _line(name: str, state: dict[str, Any]) -> tuple[Any, ...]:
    figures = state.get("figures")
    ready = state["readiness"]["status"].replace("_", " ") if "readiness" in state else "no answer"
    if figures is None:
        return (name, ready, *[None] * 6)
    paused = ", ".join(each["topic"] for each in figures["paused"]) or "no"
    oldest = show.duration(figures["backlog_oldest_seconds"]) if figures["backlog"] else None
    return (
        *(name, ready, figures["backlog"], oldest, figures["lag"]),
        *(figures["dead_open"], figures["parked"], paused),
    )


def _remarks(state: dict[str, Any]) -> list[str]:
    if "error" in state:
        return [state["error"]]
    checks = state["readiness"]["checks"]
    remarks = [f"not ready, {part}: {reason}" for part, reason in checks.items() if reason != "ok"]
    remarks += [f"warning: {warning}" for warning in state["readiness"]["warnings"]]
    return remarks + ([f"no figures: {state['refused']}"] if "refused" in state else [])


def _positions(services: Target, arguments: argparse.Namespace) -> bool:
    answer = services.call(arguments.of, "GET", "/v1/ops/positions")
    if arguments.json:
        show.as_json(answer)
        return True
    show.table(
        ("topic", "partition", "next", "end", "lag", "last applied (UTC)", "log", "paused"),
        (
            (
                *(each["topic"], each["partition"], each["next_offset"], each["end"], each["lag"]),
                *(show.moment(each["applied_at"]), _log(each), each["paused"]),
            )
            for each in answer["positions"]
        ),
    )
    return True


def _log(position: dict[str, Any]) -> str:
    name = str(position["incarnation"])[:8]
    return name if position["same_log"] is not False else f"{name} (another one now)"


def _parked(services: Target, arguments: argparse.Namespace) -> bool:
    query = {"limit": arguments.limit} | ({"ticket": arguments.ticket} if arguments.ticket else {})
    answer = services.call(arguments.of, "GET", "/v1/ops/parked", params=query)
    if arguments.json:
        show.as_json(answer)
        return True
    show.table(
        ("subject", "publisher", "version", "applied", "waiting", "reason", "open dead letters"),
        (
            (
                *(each["subject"], each["publisher"], each["version"], each["applied_version"]),
                *(show.duration(each["waited_seconds"]), each["reason"]),
                ", ".join(map(str, each["dead_letters"])) or "none",
            )
            for each in answer["parked"]
        ),
    )
    return True


def _audit(services: Target, arguments: argparse.Namespace) -> bool:
    """True when nothing was altered."""
    query = {"first": arguments.first} | ({"expect": arguments.expect} if arguments.expect else {})
    answer = services.call(arguments.of, "GET", "/v1/ops/audit", params=query)
    if arguments.json:
        show.as_json(answer)
        return bool(answer["intact"])
    print("intact" if answer["intact"] else "ALTERED")
    print(f"{answer['rows']} rows under {answer['seals']} seals, {answer['unsealed']} rows not yet sealed")
    if answer["head"]:
        print(f"head (note it elsewhere): {answer['head']['number']}:{answer['head']['hash']}")
    for fault in answer["faults"]:
        print(f"  {fault['kind']}: {show.safe(fault['detail'])}")
    return bool(answer["intact"])


def _keys(services: Target, arguments: argparse.Namespace) -> bool:
    answer = services.call(arguments.of, "GET", "/v1/ops/keys")
    if arguments.json:
        show.as_json(answer)
        return True
    show.table(
        ("key", "client", "role", "scope", "state", "last used (UTC)", "name"),
        (
            (
                *(each["key_id"], each["client"], each["role"], each["scope"], each["state"]),
                *(show.moment(each["last_used_at"]), each["name"]),
            )
            for each in answer["items"]
        ),
    )
    return True
