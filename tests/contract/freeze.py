"""Renew the frozen event schemas and OpenAPI documents: `python -m tests.contract.freeze`.

Run it when a compatible change was made (a new type or route, a new optional field). A change that breaks readers needs
a new schema version of the type instead; it is frozen only when nothing of the old form is in any log or outbox any
more. A change that breaks callers needs a new route beside the old one.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tests.contract.compatibility import breaking_changes, current_schemas
from tests.contract.documents import breaking_routes, current_documents

FROZEN = Path(__file__).with_name("schemas.json")
DOCUMENTS = Path(__file__).with_name("openapi")


def frozen_documents() -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in DOCUMENTS.glob("*.json")}


def main() -> None:
    schemas, documents = current_schemas(), current_documents()
    found: list[str] = []
    if FROZEN.exists():
        found += breaking_changes(json.loads(FROZEN.read_text(encoding="utf-8")), schemas)
    for service, old in frozen_documents().items():
        found += [f"{service}: {text}" for text in breaking_routes(old, documents[service])]
    if found and "--breaking" not in sys.argv:
        sys.exit("these changes break others (--breaking freezes them all the same):\n  " + "\n  ".join(found))
    DOCUMENTS.mkdir(exist_ok=True)
    _write(FROZEN, schemas)
    for service, document in documents.items():
        _write(DOCUMENTS / f"{service}.json", document)


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
