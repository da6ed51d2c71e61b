"""How the console prints: tables of plain text, times in UTC, control characters made harmless."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

LONGEST_CELL = 60


def as_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], *, wide: bool = False) -> None:
    """A table, its columns as wide as their content; long cells are cut unless `wide`."""
    lines = [tuple(headings), *(tuple(cell(value, wide=wide) for value in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def cell(value: Any, *, wide: bool = False) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = safe(str(value))
    return text if wide or len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def safe(text: str) -> str:
    """Without control characters: what a branch wrote must not steer the terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in text)


def moment(text: str | None) -> str:
    """`2026-11-22T10:00:00.123456Z` as people read it, UTC."""
    return "-" if text is None else text[:19].replace("T", " ")


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
