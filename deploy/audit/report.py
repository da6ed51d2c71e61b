"""What an audit says: for people, a line an invariant with its breaches; for programs, the same as JSON."""

import json
from collections.abc import Sequence

from deploy.audit.evidence import Scope
from deploy.audit.findings import Findings, Invariant

Results = Sequence[tuple[Invariant, Findings]]

HOLDS, BROKEN = 0, 1


def exit_code(results: Results) -> int:
    return BROKEN if any(findings.breaches for _, findings in results) else HOLDS


def as_text(scope: Scope, results: Results) -> str:
    lines = [f"at rest: {'yes' if scope.quiet else f'no ({scope.unrest})'}"]
    for invariant, found in results:
        verdict = "BROKEN" if found.breaches else "not quiet" if found.postponed else "holds"
        lines.append(f"{invariant.number:>2} {invariant.name:<14} {verdict:<10} {found.checked} checked")
        lines.append(f"   {invariant.promise}")
        lines += [f"   ! {text}" for text in found.shown]
        if found.breaches > len(found.shown):
            lines.append(f"   ! … and {found.breaches - len(found.shown)} more, {found.breaches} in all")
        lines += [f"   ~ not quiet, so not compared: {text}" for text in found.postponed]
        lines += [f"   - {text}" for text in found.notes]
    broken = [invariant.number for invariant, found in results if found.breaches]
    lines.append(f"broken: {', '.join(map(str, broken))}" if broken else "all hold, as far as they were compared")
    return "\n".join(lines)


def as_json(scope: Scope, results: Results) -> str:
    return json.dumps(
        {
            "quiet": scope.quiet,
            "unrest": scope.unrest,
            "holds": exit_code(results) == HOLDS,
            "invariants": [
                {
                    "number": invariant.number,
                    "name": invariant.name,
                    "promise": invariant.promise,
                    "checked": found.checked,
                    "breaches": found.breaches,
                    "shown": found.shown,
                    "not_compared": found.postponed,
                    "notes": found.notes,
                }
                for invariant, found in results
            ],
        },
        ensure_ascii=False,
        indent=2,
    )
