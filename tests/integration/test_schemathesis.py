"""Every route of every OpenAPI document against the real service, by Schemathesis: all its phases, all its checks.

Each service runs twice: with a supervisor's key through all phases, and with the keys of all roles in turn. A route
that is added to a document is tried without a change here. One that may not be tried goes into `NOT_TRIED`.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.parts import Databases
from tests.support.served import Served, served

SEED = 20261122
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
EXAMPLES, EXAMPLES_OF_ROLES = (1000, 500) if NIGHTLY else (40, 15)
CASES_AT_LEAST = {"intake": 1500, "review": 1300, "dispatch": 1300, "sla": 1000}
PATIENCE_SECONDS = 3600.0 if NIGHTLY else 280.0

# Path → why Schemathesis may not call it.
NOT_TRIED: dict[str, str] = {}
# The check compares with a request without the key that was given; in this run the hook gives every request one.
NOT_WITH_ALL_KEYS = ("ignored_auth",)


def configured(site: Served) -> str:
    """Schemathesis' configuration: four path parameters of five name something that exists."""
    lines = ["[generation]", 'database = "none"']
    known = {name: values for name, values in site.known.items() if values}
    for name, values in known.items():
        lines += [f"[dictionaries.{name}]", f"values = {json.dumps(values)}"]
    lines.append("[parameters]")
    lines += [f'"path.{name}" = {{ dictionary = "{name}", probability = 0.8 }}' for name in known]
    return "\n".join(lines)


async def run(site: Served, folder: Path, name: str, *options: str, **environment: str) -> tuple[dict[str, Any], str]:
    """One run of the command line; its report, and what it printed."""
    config, report = folder / "schemathesis.toml", folder / f"{name}.json"
    config.write_text(configured(site))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
        *("run", f"{site.url}/openapi.json", "--seed", str(SEED), "--checks", "all", "--continue-on-failure"),
        # Its health checks are about the speed of generation, and here the machine may be busy.
        *(
            "--suppress-health-check",
            "all",
            "--no-shrink",
            "--no-color",
            "--report",
            "json",
            "--report-json-path",
            str(report),
        ),
        *(part for path in NOT_TRIED for part in ("--exclude-path", path)),
        *options,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks"} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    except TimeoutError:
        process.kill()
        raise
    text = printed.decode()
    assert report.exists(), text
    return json.loads(report.read_text()), text


@pytest.mark.timeout(PATIENCE_SECONDS + 20)
@pytest.mark.parametrize("service", sorted(CASES_AT_LEAST))
async def test_a_service_keeps_what_its_document_promises(service: str, databases: Databases, tmp_path: Path) -> None:
    async with served(service, databases, tmp_path) as site:
        key = f"Authorization: Bearer {site.keys['supervisor']}"
        whole, printed = await run(site, tmp_path, "whole", "-n", str(EXAMPLES), "-H", key)
        roles, printed_of_roles = await run(
            *(site, tmp_path, "roles", "-n", str(EXAMPLES_OF_ROLES), "--phases", "fuzzing"),
            *("--exclude-checks", ",".join(NOT_WITH_ALL_KEYS)),
            SCHEMATHESIS_KEYS=json.dumps(site.keys),
        )
    cases = 0
    for report, text in ((whole, printed), (roles, printed_of_roles)):
        assert report["exit_code"] == 0, text
        assert report["stop_reason"] == "completed"
        assert report["failures"] == [], text
        assert report["errors"] == [], text
        assert report["operations"]["tested"] == report["operations"]["total"] - len(NOT_TRIED)
        cases += report["test_cases"]["generated"]
    print(f"{service}: {cases} cases, seed {SEED}")
    assert cases >= CASES_AT_LEAST[service]
