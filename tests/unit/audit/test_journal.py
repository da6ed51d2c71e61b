"""Reading a driver's journal: one outcome a try, and the canaries it sent in."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.audit.evidence import Evidence
from deploy.audit.journal import JournalBroken, read_journal

AT = "2026-11-22T10:00:00+00:00"


def line(n: int, phase: str, **more: Any) -> str:
    return json.dumps({"n": n, "at": AT, "phase": phase, **more})


def outcomes(path: Path) -> tuple[list[tuple[Any, ...]], set[str]]:
    evidence = Evidence()
    canaries = read_journal(evidence, path)
    rows = [tuple(row) for row in evidence.rows("SELECT key, action, outcome, ticket_id FROM requests")]
    assert evidence.scope.journal
    evidence.close()
    return rows, canaries


def test_a_try_has_the_outcome_of_its_done_line_or_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text(
        "\n".join(
            [
                line(1, "sent", key="a", action="register", canaries=["13900012345", "王小明"]),
                line(2, "sent", key="b", action="register"),
                line(1, "done", outcome="ok", ticket_id="t1"),
                line(3, "sent", key="b", action="register", canaries=["李四"]),
                line(3, "done", outcome="failed", status=422),
            ]
        )
    )
    rows, canaries = outcomes(path)
    assert rows == [
        ("a", "register", "ok", "t1"),
        ("b", "register", "unknown", None),
        ("b", "register", "failed", None),
    ]
    assert canaries == {"13900012345", "王小明", "李四"}


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text(line(1, "sent", key="a", action="register") + "\n" + line(1, "done", outcome="ok")[:-5])
    assert outcomes(path)[0] == [("a", "register", "unknown", None)]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text("no json\n" + line(1, "sent", key="a") + "\n")
    with pytest.raises(JournalBroken, match=r"journal:1 "):
        outcomes(path)
