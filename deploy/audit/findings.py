"""What a check found: how much it looked at, and what broke the promise, with ids."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from deploy.audit.evidence import Evidence

SHOWN = 20


@dataclass
class Findings:
    """`postponed` says what could not be compared because the system moves, `notes` what was not there to be looked at.

    The first breaches are kept in words; the others are only counted.
    """

    checked: int = 0
    breaches: int = 0
    shown: list[str] = field(default_factory=list)
    postponed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def breach(self, text: str) -> None:
        self.breaches += 1
        if len(self.shown) < SHOWN:
            self.shown.append(text)

    def all_of(self, evidence: Evidence, what: str, query: str, **values: Any) -> None:
        """Every row of the query is a breach; its columns are the ids."""
        for row in evidence.rows(query, **values):
            ids = ", ".join(f"{name} {row[name]}" for name in row.keys() if row[name] is not None)
            self.breach(f"{what}: {ids}")

    def at_rest(self, evidence: Evidence, what: str) -> bool:
        """Whether the system rests; if not, remember what was not compared."""
        if not evidence.scope.quiet:
            self.postponed.append(what)
        return evidence.scope.quiet


@dataclass(frozen=True)
class Invariant:
    """`number` is that of the fault plan; `promise` one sentence."""

    number: int
    name: str
    promise: str
    check: Callable[[Evidence], Findings]
