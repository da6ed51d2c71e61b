"""The documents: links lead somewhere, both READMEs say the same, figures and commands exist."""

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from deploy.console.__main__ import parser
from shared.telemetry import metrics
from tests.architecture.services import PROJECT

RUNBOOKS = sorted((PROJECT / "deploy" / "runbooks").glob("[A-Z]*[a-z].md"))
DOCUMENTS = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("deploy/runbooks/*.md")])
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


def test_every_alert_has_its_page_and_no_other_page_is_there() -> None:
    rules = yaml.safe_load(text_of("deploy/alerts/gongdan.rules.yaml"))["groups"][0]["rules"]
    alerts = {rule["alert"] for rule in rules}
    assert {path.stem for path in RUNBOOKS} == alerts
    listed = re.findall(r"^\| \[(\w+)\]", text_of("deploy/runbooks/README.md"), re.MULTILINE)
    assert sorted(listed) == sorted(alerts)


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_a_runbook_is_one_page_and_says_how_it_was_tried(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert page.startswith(f"# {path.stem}\n")
    assert len(page.splitlines()) <= PAGE_LINES
    order = ["Symptom.", "For customers.", "See it.", "Cure", "Cured when", "Tried."]
    assert [page.count(f"**{words}") for words in order[:3]] == [1, 1, 1]
    places = [page.index(f"**{words}") for words in order]
    assert places == sorted(places)


def test_the_console_has_every_command_that_the_documents_name() -> None:
    usage = parser().format_help()
    commands = set(re.findall(r"^    (\w+) ", usage, re.MULTILINE))
    for path in DOCUMENTS:
        for command in re.findall(r"(?:`|^|deploy\.)console (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert command in commands, f"{path.name}: console {command}"
