"""Results as a Markdown page: a table of figures and one of CPU milliseconds for each part."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.figures import Cpu, Figure, Findings, Spread, Target, spread

HEAD = ("What", "Measured", "Floor", "Ratio to the floor", "Target", "Met")


def number(value: float) -> str:
    """Three or four figures that count, thousands with a comma."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    if value == 0:
        return "0"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"


def shown(known: Spread) -> str:
    """`median (least–most)`, or one number when there was one round or no difference."""
    if known.least == known.most:
        return number(known.median)
    return f"{number(known.median)} ({number(known.least)}–{number(known.most)})"


def target(known: Target | None) -> str:
    if known is None:
        return "–"
    sign = "≥" if known.bound == "at least" else "≤"
    return f"{sign} {number(known.limit)}{' × floor' if known.of == 'ratio' else ''}"


def row(figure: Figure) -> tuple[str, ...]:
    measured = f"{shown(spread(figure.values))} {figure.unit}" if figure.values else "not measured"
    floor = f"{figure.floor_name}: {shown(spread(figure.floor))}" if figure.floor else "–"
    ratio = shown(spread(figure.ratios)) if figure.ratios else "–"
    met = {None: "–", True: "yes", False: "**no**"}[figure.met]
    return (figure.name, measured.strip(), floor, ratio, target(figure.target), met)


def lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(each)} |" for each in rows)]


def cpu_lines(known: Sequence[Cpu]) -> list[str]:
    """One row a measurement, one column a process; the last column is the sum of the medians' rounds."""
    processes = list(dict.fromkeys(name for each in known for name in each.processes))
    rows = []
    for each in known:
        cells = [shown(each.spread(name)) if name in each.processes else "–" for name in processes]
        rows.append([each.name, *cells, shown(spread(sum(one.values()) for one in each.rounds))])
    return lines(("CPU ms a ticket", *processes, "all"), rows)


def section(title: str, found: Findings) -> str:
    parts = [f"## {title}", ""]
    if found.figures:
        parts += [*lines(HEAD, [row(figure) for figure in found.figures]), ""]
    if found.cpu:
        parts += [*cpu_lines(found.cpu), ""]
    parts += [f"* {note}" for note in found.notes]
    return "\n".join(parts).rstrip() + "\n"


def page(about: Mapping[str, Any], sections: Sequence[str]) -> str:
    """The whole page. `about` says what was run where: its items are listed first."""
    said = "\n".join(f"* {name}: {value}" for name, value in about.items())
    return f"# Benchmark\n\n{said}\n\nMedian of the rounds, with the least and the most in brackets.\n\n" + "\n".join(
        sections
    )
