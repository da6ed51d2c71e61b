"""The documents: links lead somewhere, both READMEs say the same, figures and commands exist."""

import re
from pathlib import Path

import pytest
from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from shared.telemetry import metrics
from tests.architecture.services import PROJECT

DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")])
DECISIONS = sorted((PROJECT / "docs" / "decisions").glob("*.md"))
PAGE_LINES = 60


def text_of(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("https://", "#")):
            assert (path.parent / target.partition("#")[0]).exists(), target


def test_both_readmes_say_the_same() -> None:
    english, chinese = text_of("README.md"), text_of("README.zh-CN.md")
    for pattern in (r"^#+ ", r"^\|", r"^\* ", r"^```\w*"):
        assert len(re.findall(pattern, english, re.MULTILINE)) == len(re.findall(pattern, chinese, re.MULTILINE)), (
            pattern
        )
    for pattern in (
        r"^ *(?:curl|make|docker|KEY=|\.venv)[^#\n]*",
        r"/(?:v1|health|metrics|docs)[\w/]*",
        r"gongdan\.[a-z.]+",
    ):
        found = [sorted(set(re.findall(pattern, text, re.MULTILINE))) for text in (english, chinese)]
        assert [item.strip() for item in found[0]] == [item.strip() for item in found[1]]


def test_every_make_target_in_the_documents_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of("Makefile"), re.MULTILINE))
    for path in DOCUMENTS:
        for target in re.findall(r"`make ([a-z]+)", path.read_text(encoding="utf-8")):
            assert target in targets, f"{path.name}: make {target}"


def test_every_metric_is_explained_and_no_other() -> None:
    known = {
        f"{metric._name}_total" if isinstance(metric, Counter) else metric._name
        for metric in vars(metrics).values()
        if isinstance(metric, MetricWrapperBase)
    }
    assert set(re.findall(r"`(gongdan_\w+)`", text_of("docs/operations.md"))) == known


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_is_dated_complete_and_one_page(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(f"# {path.stem[:4]} ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", lines[2])
    headings = [line for line in lines if line.startswith("## ")]
    assert headings == ["## Context", "## Decision", "## Consequences", "## What would reopen it"]
    assert len(lines) <= PAGE_LINES


def test_decisions_are_numbered_without_holes() -> None:
    assert [int(path.stem[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))
