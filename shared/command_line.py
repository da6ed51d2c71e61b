"""The command line of every service: `python -m services.<name> [--roles …]`, `migrate`, and `audit`."""

import argparse
import asyncio
import gc
import sys
from collections.abc import Callable

import uvloop
from pydantic import ValidationError

from shared.database.audit import AuditReport, Head, verify
from shared.database.connection import one_connection
from shared.database.migrations import upgrade
from shared.service import ROLES, Service
from shared.settings import S, from_environment
from shared.telemetry.logs import configure_logging

YOUNG_OBJECTS = 20_000


def main(name: str, settings_model: type[S], build: Callable[[S], Service]) -> None:
    """Run a service, its migrations, or the check of its audit trail.

    Exits with 2 when a setting is missing or wrong, naming it; with 1 when the audit trail is not as it was written.
    """
    parser = argparse.ArgumentParser(prog=f"python -m services.{name}")
    parser.add_argument("command", nargs="?", choices=["serve", "migrate", "audit"], default="serve")
    parser.add_argument("--roles", default=",".join(ROLES), help="which roles run in this process (default: all)")
    parser.add_argument("--expect", type=Head.read, help="audit: a head noted earlier, number:hash")
    parser.add_argument("--from", type=int, default=1, dest="first", help="audit: the first seal to look at")
    arguments = parser.parse_args()
    roles = arguments.roles.split(",")
    if unknown := set(roles) - set(ROLES):
        parser.error(f"unknown role {sorted(unknown)[0]!r}; known: {', '.join(ROLES)}")
    try:
        settings = from_environment(settings_model)
    except ValidationError as error:
        prefix = settings_model.model_config.get("env_prefix", "")
        for item in error.errors(include_input=False, include_url=False):
            variable = prefix + "_".join(str(step) for step in item["loc"]).upper()
            print(f"{variable}: {item['msg']}", file=sys.stderr)
        sys.exit(2)
    configure_logging(name, settings.log_level)
    if arguments.command == "migrate":
        upgrade(name, settings.database_url.get_secret_value())
        return
    if arguments.command == "audit":
        report = asyncio.run(_audit(settings.database_url.get_secret_value(), arguments.expect, arguments.first))
        print(report.model_dump_json(indent=2))
        sys.exit(0 if report.intact else 1)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(build, settings, roles))


async def _audit(url: str, expect: Head | None, first: int) -> AuditReport:
    async with one_connection(url) as connection:
        return await verify(connection, expect=expect, first=first)


async def _serve(build: Callable[[S], Service], settings: S, roles: list[str]) -> None:
    service = build(settings)
    # What start-up made lives as long as the process; collecting it again and again cost 15 % of a ticket.
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 50)
    await service.run(roles)
