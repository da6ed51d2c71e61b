"""Packs by name, and a check for their writers.

`python -m shared.policy.loader <name>` prints a summary, or the errors with file, line and field.
"""

import sys
from collections.abc import Sequence

from shared.policy.model import Pack
from shared.policy.reading import PackError, load_pack, load_pack_file

__all__ = ["PackError", "load_pack", "load_pack_file", "main", "summary"]


def summary(pack: Pack) -> str:
    """A few lines on what a pack holds."""
    leaves = sum(category.leaf for category in pack.category_by_code.values())
    counts = {
        "branches": len(pack.branches),
        "channels": len(pack.channels),
        "categories": f"{len(pack.category_by_code)} ({leaves} leaves)",
        "elements": len(pack.elements),
        "classes": len(pack.classes),
        "review checks": len(pack.checks),
        "routing rules": len(pack.routing.rules),
        "limits": len(pack.limits.resolution) + 2,
        "clocks": f"{len(pack.clocks)} ({sum(clock.enabled for clock in pack.clocks)} enabled)",
    }
    rows = [f"  {name}: {count}" for name, count in counts.items()]
    return "\n".join([f"{pack.id} {pack.version} ({pack.name.zh}, {pack.name.en})", *rows])


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m shared.policy.loader <pack>", file=sys.stderr)
        return 2
    try:
        print(summary(load_pack(arguments[0])))
    except PackError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
