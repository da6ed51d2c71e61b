"""What the runner prints when everything is up: addresses, keys, and a first complaint to paste."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIRST_COMPLAINT = {
    "channel": "service_hall",
    "kind": "complaint",
    "category": "network.coverage.indoor",
    "customer": {"phone": "13800000000", "tier": "ordinary", "brand": "easyown", "home_city": "jinan"},
    "content": "家里信号差,打电话经常断线,希望尽快处理。",
    "place": {"city": "jinan", "district": "历下区", "address": "泉城路附近"},
    "elements": {"location": "泉城路附近", "since": "三天前"},
}
RULE = "-" * 100


def first_complaint_command(url: str, key: str) -> str:
    """A curl command that posts the first complaint; posting it again gives the first answer again."""
    body = json.dumps(FIRST_COMPLAINT, ensure_ascii=False, separators=(",", ":"))
    return (
        f"curl -sS -X POST {url}/v1/tickets -H {shlex.quote(f'Authorization: Bearer {key}')} "
        f"-H 'Content-Type: application/json' -H 'Idempotency-Key: first-complaint' -d {shlex.quote(body)}"
    )


def banner(run: Mapping[str, Any], logs: Path) -> str:
    """The text for the terminal, from the content of `run.json`."""
    services, keys = run["services"], run["keys"]
    rows = [f"  {name:<11} {service['url']:<26} {service['url']}/docs" for name, service in services.items()]
    rows += [f"  {'kafka':<11} {run['kafka']['bootstrap_servers']:<26} {_broker_note(run['kafka'])}"]
    rows += [f"  {'data':<11} {run['data']}", f"  {'logs':<11} {logs}"]
    if run["time_scale"] != 1:
        rows += [f"  {'clock':<11} {run['time_scale']:g} seconds of business time in a real second"]
    key_rows = [f"  {role:<11} {key}{_key_note(role)}" for role, key in keys.items()]
    complaint = first_complaint_command(services["intake"]["url"], keys["front_line"])
    return "\n".join(
        [
            "",
            RULE,
            "Gongdan is running. Ctrl-C stops it.",
            "",
            *rows,
            "",
            "API keys (Authorization: Bearer …):",
            *key_rows,
            "",
            "A first complaint:",
            complaint,
            RULE,
        ]
    )


def _broker_note(kafka: Mapping[str, Any]) -> str:
    if kafka["security"] == "scram":
        return "Apache Kafka with TLS and SCRAM; passwords and reply keys are in run.json"
    return "Apache Kafka" if kafka["kind"] == "kafka" else "embedded, in memory"


def _key_note(role: str) -> str:
    return "   (Jinan; the others are in run.json)" if role == "branch" else ""
