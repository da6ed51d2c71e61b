"""What a run has shown: figures from the journal and from what was done, and every breach in words."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from tests.faults.faults import Done, Outage
from tests.faults.journal import Attempt

ANSWER_WITHIN = timedelta(seconds=10)
AVAILABLE_SHARE = 0.99
QUIET_SECONDS = 60.0
FOUND_SHOWN = 10
KILLS = ("kill", "broker_kill", "database_kill")
CONFIDENT = 3.0
"""Rule of three: after n trials without a failure, its chance is below 3/n with 95 % confidence."""


@dataclass(frozen=True)
class Availability:
    """Complaints (by key) that were answered for certain within 10 s of their first sending. `fair` leaves out those
    whose time touched a spell in which PostgreSQL was down or the way to intake or to its database was cut."""

    complaints: int
    share: float
    fair_complaints: int
    fair_share: float


def availability(attempts: Iterable[Attempt], outages: Sequence[Outage]) -> Availability:
    by_key: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        if attempt.action == "register":
            by_key[attempt.key].append(attempt)
    good = fair = fair_good = 0
    for tries in by_key.values():
        began = tries[0].began
        answered = next((each.ended for each in tries if each.outcome in ("ok", "failed")), None)
        in_time = answered is not None and answered - began <= ANSWER_WITHIN
        until = answered if answered is not None and in_time else began + ANSWER_WITHIN
        good += in_time
        if not any(each.began <= until.timestamp() and each.ended >= began.timestamp() for each in outages):
            fair += 1
            fair_good += in_time
    return Availability(len(by_key), _share(good, len(by_key)), fair, _share(fair_good, fair))


def unresolved(attempts: Iterable[Attempt]) -> int:
    """Keys whose last request had no certain end."""
    last = {attempt.key: attempt for attempt in attempts}
    return sum(1 for attempt in last.values() if attempt.outcome not in ("ok", "failed"))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


@dataclass
class Report:
    """The whole of a run, as it is stored. `breaches` empty means that everything held."""

    seed: int
    dose: str
    broker: str
    attempts: list[Attempt] = field(repr=False)
    done: list[Done] = field(repr=False)
    kills: Counter[str]
    outages: list[Outage] = field(repr=False)
    driver: dict[str, Any]
    seconds_to_quiet: float | None
    last_state: str
    poison: dict[str, int]
    audit: dict[str, Any]
    breaches: list[str] = field(default_factory=list)

    def judge(self) -> None:
        """Add a breach for everything that did not hold."""
        figures = availability(self.attempts, self.outages)
        wrong = {
            f"not at rest {QUIET_SECONDS:.0f} s after the last fault: {self.last_state}": self.seconds_to_quiet is None,
            f"intake answered {figures.fair_share:.2%} in time, not {AVAILABLE_SHARE:.0%}": figures.fair_share
            < AVAILABLE_SHARE,
            f"tickets that did not end: {self.driver.get('open')}": self.driver.get("open") != {},
            f"good complaints refused: {self.driver.get('refused')}": self.driver.get("refused") != [],
            f"{unresolved(self.attempts)} requests never got a certain answer": unresolved(self.attempts) > 0,
            f"{self.poison.get('twice')} poison records are dead letters more than once": self.poison.get("twice"),
            f"{self.poison.get('missing')} poison records are no dead letters": self.poison.get("missing")
            and self.broker == "kafka",
            f"the checker found something, see {self.audit.get('output')}": self.audit.get("exit_code", 0) != 0,
            f"the checker could not compare everything: {self.audit.get('not_compared')}": self.audit.get(
                "not_compared"
            ),
        }
        self.breaches += [text for text, broken in wrong.items() if broken]
        for kind in {each.step.kind for each in self.done}:
            ours = [each for each in self.done if each.step.kind == kind]
            if all(each.skipped and each.allowed for each in ours):
                self.breaches.append(f"the fault {kind} was never carried out: {ours[0].note}")

    def content(self) -> dict[str, Any]:
        """As stored in `report.json`."""
        kills = sum(1 for each in self.done if each.step.kind in KILLS and not each.skipped)
        tickets = self.driver.get("registered", 0)
        return {
            "seed": self.seed,
            "dose": self.dose,
            "broker": self.broker,
            "breaches": self.breaches,
            "kills": kills,
            "kills_by_role": dict(sorted(self.kills.items())),
            "faults": dict(sorted(Counter(each.step.kind for each in self.done if not each.skipped).items())),
            "not_done": [f"{each.step.kind} {each.step.target}: {each.note}" for each in self.done if each.skipped],
            "spells": dict(sorted(Counter(f"{s.detail} {s.target}" for s in self._network()).items())),
            "requests": dict(sorted(Counter(f"{a.action} {a.outcome}" for a in self.attempts).items())),
            "driver": self.driver,
            "availability": asdict(availability(self.attempts, self.outages)),
            "seconds_to_quiet": self.seconds_to_quiet,
            "last_state": self.last_state,
            "poison": self.poison,
            "audit": self.audit,
            "bound_per_kill": CONFIDENT / kills if kills else None,
            "bound_per_ticket": CONFIDENT / tickets if tickets else None,
            "outages": [asdict(each) for each in self.outages],
            "steps": [asdict(each) for each in self.done],
        }

    def _network(self) -> list[Any]:
        return [each.step for each in self.done if each.step.kind == "network" and not each.skipped]

    def table(self) -> str:
        """For the terminal."""
        content = self.content()
        figures = availability(self.attempts, self.outages)
        quiet = f"{self.seconds_to_quiet:.1f} s" if self.seconds_to_quiet is not None else "never"
        rows = [
            ("seed, dose, broker", f"{self.seed}, {self.dose}, {self.broker}"),
            ("kills", f"{content['kills']}; by role: {_listed(content['kills_by_role'])}"),
            ("faults", _listed(content["faults"])),
            ("network", _listed(content["spells"])),
            ("not done", "; ".join(content["not_done"]) or "-"),
            ("tickets", f"{self.driver.get('registered')} registered, {self.driver.get('commands')} Kafka commands"),
            ("requests", _listed(content["requests"])),
            ("intake in 10 s", f"{figures.share:.2%} of {figures.complaints} complaints"),
            ("  while it could", f"{figures.fair_share:.2%} of {figures.fair_complaints} (aim {AVAILABLE_SHARE:.0%})"),
            ("at rest after", f"{quiet} (aim {QUIET_SECONDS:.0f} s): {self.last_state}"),
            ("poison", _listed(self.poison)),
            ("checker", str(self.audit.get("summary"))),
            *(("", text) for text in self.audit.get("found", [])[:FOUND_SHOWN]),
            ("breaches", "; ".join(self.breaches) or "none"),
        ]
        if not self.breaches and content["bound_per_kill"]:
            bounds = f"a kill harms in under {content['bound_per_kill']:.1%}, a ticket is harmed in under"
            rows.append(("what none means", f"{bounds} {content['bound_per_ticket']:.2%} (95 %, rule of three)"))
        return "\n".join(f"  {name:<19} {text}" for name, text in rows)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "-"
