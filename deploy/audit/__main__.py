"""Audit of a running system: read everything, change nothing, and say whether the twelve invariants hold.

    python -m deploy.audit --run-file .data/run.json
    python -m deploy.audit --bootstrap kafka:9092 --database intake=postgresql://… --database review=… …

Exit code 0: all hold; 1: breaches; 2: cannot check.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
from aiokafka.errors import KafkaError

from deploy.audit.chains import verify_chains
from deploy.audit.databases import read_databases
from deploy.audit.evidence import SERVICES, Evidence, micros
from deploy.audit.graph import replay_all
from deploy.audit.invariants import INVARIANTS
from deploy.audit.journal import JournalBroken, read_journal
from deploy.audit.personal import Search
from deploy.audit.places import search_databases, search_logs, search_metrics
from deploy.audit.quiet import POOL_SIZE, look, measure_connections, settle, wait_for_quiet
from deploy.audit.report import Results, as_json, as_text, exit_code
from deploy.audit.topics import LogUnreadable, open_log, read_topics
from deploy.kafka.access import OPERATOR
from shared.messaging.broker import BrokerAddress
from shared.settings import broker_from_environment

CANNOT = 2


@dataclass(frozen=True)
class Options:
    """Where to look. `services` and `metrics_key` are known only from a run file."""

    databases: Mapping[str, str]
    broker: BrokerAddress
    journal: Path | None = None
    logs: Path | None = None
    quiet_seconds: float = 0.0
    copies: int | None = None
    pool_size: int = POOL_SIZE
    processes: int | None = None
    time_scale: float = 1.0
    time_origin: datetime | None = None
    services: Mapping[str, str] = field(default_factory=dict)
    metrics_key: str = ""


async def gather(options: Options) -> Evidence:
    """Read everything. Raises what the databases, the broker and the journal raise."""
    evidence = Evidence()
    scope = evidence.scope
    scope.copies, scope.scale = options.copies, options.time_scale
    scope.origin = micros(options.time_origin) if options.time_origin else 0
    canaries = read_journal(evidence, options.journal) if options.journal else set()
    search = Search(canaries)
    async with open_log(options.broker) as log:
        if options.quiet_seconds > 0:
            await wait_for_quiet(scope, log, options.databases, options.quiet_seconds)
        await measure_connections(scope, options.databases, pool_size=options.pool_size, processes=options.processes)
        before = await look(log, options.databases)
        # The log first: a record in it has its row in an outbox by then, whatever goes on meanwhile.
        await read_topics(evidence, search, log)
        await read_databases(evidence, options.databases)
        for partition, end in (await log.ends()).items():
            evidence.add("ends", [(*partition, end)])
        settle(scope, before, await look(log, options.databases))
    await verify_chains(evidence, options.databases)
    await search_databases(evidence, search, options.databases)
    if options.logs is not None:
        search_logs(evidence, search, options.logs)
    if options.metrics_key:
        await search_metrics(evidence, search, options.services, options.metrics_key)
    evidence.complete()
    replay_all(evidence)
    return evidence


async def audit(options: Options) -> tuple[Evidence, Results]:
    evidence = await gather(options)
    return evidence, [(invariant, invariant.check(evidence)) for invariant in INVARIANTS]


def parse(words: Sequence[str]) -> Options:
    """Raises `SystemExit(2)` with the reason."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.audit", description="Check a running system; change nothing."
    )
    parser.add_argument("--run-file", type=Path, help="run.json of a one-machine run")
    parser.add_argument("--database", action="append", default=[], metavar="SERVICE=URL", help="once for each service")
    parser.add_argument("--bootstrap", help="host:port[,host:port…] of Kafka")
    parser.add_argument("--journal", type=Path, help="journal of whoever drove the system (JSON lines)")
    parser.add_argument("--logs", type=Path, help="folder of log files to search (default: logs of the data folder)")
    parser.add_argument("--quiet-seconds", type=float, default=0.0, help="wait so long for the system to rest")
    parser.add_argument("--copies", type=int, help="repeats of a branch's record that faults explain (default: report)")
    parser.add_argument("--pool-size", type=int, default=POOL_SIZE, help="DATABASE_POOL_SIZE of the services")
    parser.add_argument("--processes", type=int, help="processes of a service (default: those that hold a lease)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(words)
    run = json.loads(given.run_file.read_text(encoding="utf-8")) if given.run_file else {}
    databases = {**run.get("databases", {}), **dict(item.split("=", 1) for item in given.database if "=" in item)}
    bootstrap = given.bootstrap or run.get("kafka", {}).get("bootstrap_servers")
    if set(databases) != set(SERVICES) or not bootstrap:
        parser.error("give --run-file, or --bootstrap and a --database for each of " + ", ".join(SERVICES))
    return Options(
        databases={service: databases[service] for service in SERVICES},
        broker=_broker(bootstrap, run.get("kafka", {})),
        journal=given.journal,
        logs=given.logs or (Path(run["data"]) / "logs" if "data" in run else None),
        quiet_seconds=given.quiet_seconds,
        copies=given.copies,
        pool_size=given.pool_size,
        processes=given.processes,
        time_scale=run.get("time_scale", 1.0),
        time_origin=datetime.fromisoformat(run["time_origin"]) if "time_origin" in run else None,
        services={name: service["url"] for name, service in run.get("services", {}).items()},
        metrics_key=run.get("keys", {}).get("ops", ""),
    )


def _broker(bootstrap: str, access: Mapping[str, Any]) -> BrokerAddress:
    """As the run file says; without one, by the variables that the other tools for Kafka take too."""
    if access.get("security", "none") == "none":
        return broker_from_environment(bootstrap)
    return BrokerAddress(
        bootstrap, access["security_protocol"], OPERATOR, access["passwords"][OPERATOR], ca_file=Path(access["ca_file"])
    )


def main(words: Sequence[str]) -> int:
    try:
        options = parse(words)
        evidence, results = asyncio.run(audit(options))
    except (OSError, ValueError, TimeoutError, KafkaError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        print(f"cannot check: {type(error).__name__}: {error}", file=sys.stderr)
        return CANNOT
    except (JournalBroken, LogUnreadable) as error:
        print(f"cannot check: {error}", file=sys.stderr)
        return CANNOT
    with_json = "--json" in words
    print(as_json(evidence.scope, results) if with_json else as_text(evidence.scope, results))
    evidence.close()
    return exit_code(results)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
