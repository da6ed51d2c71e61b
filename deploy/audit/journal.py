"""The journal of whoever drove the system: every request and its answer, as JSON lines, folded to one outcome a try.

    {"n": 17, "at": "…", "phase": "sent", "action": "register", "key": "…", "ticket": null, "canaries": ["…"]}
    {"n": 17, "at": "…", "phase": "done", "outcome": "ok|failed|unknown", "ticket_id": "…", "ticket_no": "…"}

A try without a `done` line is unknown: the driver died, or never heard.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from deploy.audit.evidence import Evidence, micros

UNKNOWN = "unknown"


class JournalBroken(Exception):
    """A line that cannot be read; the text names it."""


def read_journal(evidence: Evidence, path: Path) -> set[str]:
    """Store the tries; gives the canaries: the personal data that the driver sent in.

    Raises `JournalBroken`, except for a last line that was cut off while it was written.
    """
    sent: dict[int, dict[str, Any]] = {}
    done: dict[int, dict[str, Any]] = {}
    canaries: set[str] = set()
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                n, phase = int(entry["n"]), entry["phase"]
            except (ValueError, KeyError, TypeError):
                if not line.endswith("\n"):
                    break
                raise JournalBroken(f"{path}:{number} is not a line of a journal") from None
            if phase == "sent":
                sent[n] = entry
                canaries.update(str(canary) for canary in entry.get("canaries") or ())
            else:
                done[n] = entry
    evidence.scope.journal = True
    evidence.add("requests", (_request(entry, done.get(n, {})) for n, entry in sent.items()))
    return canaries


def _request(sent: dict[str, Any], done: dict[str, Any]) -> tuple[Any, ...]:
    at = sent.get("at")
    return (
        sent.get("key"),
        sent.get("action"),
        done.get("outcome", UNKNOWN),
        done.get("ticket_id") or sent.get("ticket_id"),
        done.get("ticket_no"),
        micros(datetime.fromisoformat(at)) if at else None,
    )
