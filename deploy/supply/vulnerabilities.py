"""Are versions in the lock known to be vulnerable? `python -m deploy.supply.vulnerabilities`, or `make vulnerabilities`.

pip-audit asks PyPI for each pinned version; nothing is resolved or installed. requirements/dev.txt holds every package
of the other two. A vulnerability fails, unless `accepted.yaml` names it, with a reason and a day that is not over.

Where the answer cannot be had (no network, or an index that knows no vulnerabilities: pip-audit then calls a package
"not found" and still ends well), nothing was proved. That is said loudly and is no failure, so that a machine without
the network can build; GONGDAN_REQUIRE_ADVISORIES=1 makes it one, and a release sets it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import yaml

from deploy.local.supervisor import PROJECT

LOCK = PROJECT / "requirements" / "dev.txt"
ACCEPTED = Path(__file__).with_name("accepted.yaml")
REQUIRE = "GONGDAN_REQUIRE_ADVISORIES"
PATIENCE_SECONDS = 600


@dataclass
class Verdict:
    """`vulnerable`: one line a finding. `unknown`: what could not be asked."""

    audited: int = 0
    vulnerable: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def accepted(today: date, path: Path = ACCEPTED) -> list[str]:
    """The ids that are accepted on this day. Raises `ValueError` for an entry that does not say all it must."""
    entries = yaml.safe_load(path.read_text("utf-8")) or []
    for entry in entries:
        if set(entry) != {"id", "reason", "until"} or not entry["reason"] or not isinstance(entry["until"], date):
            raise ValueError(f"{path.name}: each entry needs id, reason and until (a day): {entry}")
    return [entry["id"] for entry in entries if today <= entry["until"]]


def judge(report: dict[str, Any]) -> Verdict:
    """Read pip-audit's JSON."""
    verdict = Verdict()
    for package in report["dependencies"]:
        if "skip_reason" in package:
            verdict.unknown.append(package["name"])
            continue
        verdict.audited += 1
        verdict.vulnerable += [
            f"{package['name']} {package['version']}: {found['id']}, fixed in: {', '.join(found['fix_versions'])}"
            for found in package["vulns"]
        ]
    return verdict


def ask(lock: Path, ignored: Iterable[str], *options: str) -> Verdict:
    """Ask for every package of a lock file."""
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "-r", str(lock)]
    for each in ignored:
        options += ("--ignore-vuln", each)
    done = subprocess.run(
        [*command, "--format", "json", "--progress-spinner", "off", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    try:
        report = json.loads(done.stdout)
    except ValueError:
        return Verdict(unknown=[f"everything: {(done.stderr.strip().splitlines() or ['no answer'])[-1]}"])
    return judge(report)


def main() -> int:
    verdict = ask(LOCK, accepted(datetime.now(UTC).date()))
    for line in verdict.vulnerable:
        print(f"VULNERABLE: {line}", file=sys.stderr)
    if verdict.unknown:
        shown = ", ".join(verdict.unknown[:5]) + (" …" if len(verdict.unknown) > 5 else "")
        print(f"WARNING: NOT AUDITED: {len(verdict.unknown)} of the packages ({shown}).", file=sys.stderr)
        print("WARNING: no vulnerability service knows them here; this proves nothing about them.", file=sys.stderr)
    print(f"audited: {verdict.audited} packages, {len(verdict.vulnerable)} vulnerabilities")
    strict = os.environ.get(REQUIRE) == "1"
    return 1 if verdict.vulnerable or (strict and verdict.unknown) else 0


if __name__ == "__main__":
    sys.exit(main())
