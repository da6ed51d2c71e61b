"""The operators' console.

    python -m deploy.console status
    python -m deploy.console --service sla=http://10.0.0.4:8004 --key-file ops.key dead list sla

Services and key come from `run.json` of a one-machine run (`.data/run.json` unless `--run-file` says otherwise), or
from `--service name=url` (again for each) with `--key-file`. `--json` prints what the services answer.
Exit codes: 0 done, 1 refused or not done, 2 wrong command line, 3 a service does not answer.
"""

import argparse
import sys
from pathlib import Path

from deploy.console import dead, look, streams
from deploy.console.client import Refused, Unreachable, Unusable, target

DONE, NOT_DONE, USAGE, NOT_REACHED = 0, 1, 2, 3

EXAMPLES = """examples:
  python -m deploy.console status
  python -m deploy.console dead list sla --state open --error ticket_no
  python -m deploy.console dead show sla 17
  python -m deploy.console dead redrive sla 17 --reason "reader repaired in 1.4.2"
  python -m deploy.console dead redrive sla --all --topic gongdan.intake --reason "reader repaired"
  python -m deploy.console dead discard sla 17 --reason "test data of a branch"
  python -m deploy.console replay intake --ticket T20261122-0000012 --reason "sla never saw it"
  python -m deploy.console replay review --since 2026-11-22T08:00:00+08:00 --reason "topic made anew"
  python -m deploy.console parked dispatch
  python -m deploy.console positions sla
  python -m deploy.console pause sla gongdan.intake --reason "repairing the reader"
  python -m deploy.console resume sla '*' --reason "repaired"
  python -m deploy.console rebuild intake --check --reason "monthly check"
  python -m deploy.console audit intake
  python -m deploy.console keys intake
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m deploy.console",
        description="What operators look at and do, over the /v1/ops routes. Every change is audited with its reason.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--run-file", type=Path, help="run.json of a one-machine run (default .data/run.json)")
    top.add_argument("--service", action="append", default=[], metavar="NAME=URL", help="a service, instead of a run")
    top.add_argument("--key-file", type=Path, help="file with an API key of the role ops, for --service")
    top.add_argument("--json", action="store_true", help="print JSON")
    named = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for part in (look, dead, streams):
        part.add(named)
    return top


def main(words: list[str]) -> int:
    arguments = parser().parse_args(words)
    try:
        services = target(arguments.run_file, arguments.service, arguments.key_file)
        done: bool = arguments.run(services, arguments)
    except Unusable as error:
        print(error, file=sys.stderr)
        return USAGE
    except Unreachable as error:
        print(error, file=sys.stderr)
        return NOT_REACHED
    except Refused as error:
        print(error, file=sys.stderr)
        return NOT_DONE
    return DONE if done else NOT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
