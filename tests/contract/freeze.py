"""Renew the frozen schemas: `python -m tests.contract.freeze`.

Run it when a compatible change was made (a new type, a new optional field). A change that breaks readers needs a new
schema version of the type instead; it is frozen only when nothing of the old form is in any log or outbox any more.
"""

import json
import sys
from pathlib import Path

from tests.contract.compatibility import breaking_changes, current_schemas

FROZEN = Path(__file__).with_name("schemas.json")


def main() -> None:
    schemas = current_schemas()
    if FROZEN.exists() and "--breaking" not in sys.argv:
        found = breaking_changes(json.loads(FROZEN.read_text(encoding="utf-8")), schemas)
        if found:
            sys.exit("these changes break readers (--breaking freezes them all the same):\n  " + "\n  ".join(found))
    FROZEN.write_text(json.dumps(schemas, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
