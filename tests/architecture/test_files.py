"""How the tree is kept: names, sizes, migrations, and what a module says of itself."""

import ast
import re
from pathlib import Path

import pytest

from tests.architecture.services import PROJECT, SERVICES

PACKAGES = ("deploy", "services", "shared", "tests")
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "managers"}
LONGEST = 400

SOURCES = sorted(path.relative_to(PROJECT) for package in PACKAGES for path in (PROJECT / package).rglob("*.py"))
MIGRATIONS = sorted(PROJECT.glob("services/*/migrations/versions/*.py"))


def test_no_file_or_folder_has_a_name_that_says_nothing() -> None:
    for path in SOURCES:
        assert not FORBIDDEN_NAMES & {*path.parts, path.stem}, path


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_file_is_short_enough_to_read(path: Path) -> None:
    lines = len((PROJECT / path).read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{path} has {lines} lines: split it"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.parts[0] in ("services", "shared", "deploy")], ids=str
)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
    plain = path.name in ("__init__.py", "env.py")
    assert plain or ast.get_docstring(tree), f"{path} has no docstring"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_says_what_it_owns(service: str) -> None:
    tree = ast.parse((PROJECT / "services" / service / "__init__.py").read_text(encoding="utf-8"))
    assert "Owns:" in (ast.get_docstring(tree) or "")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_the_usual_files(service: str) -> None:
    folder = PROJECT / "services" / service
    for name in ("__init__", "__main__", "app", "settings", "api", "schemas", "consumers", "tables"):
        assert (folder / f"{name}.py").is_file(), name
    for name in ("usecases", "domain", "repository"):
        assert (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file(), name


def assigned(path: Path) -> dict[str, object]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    values: dict[str, object] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant):
            values |= {target.id: statement.value.value for target in statement.targets if isinstance(target, ast.Name)}
    return values


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: f"{path.parts[-4]}/{path.stem}")
def test_a_revision_has_the_name_of_its_file(path: Path) -> None:
    assert re.fullmatch(r"\d{4}_[a-z0-9_]+", path.stem)
    assert assigned(path)["revision"] == path.stem


@pytest.mark.parametrize("service", SERVICES)
def test_the_revisions_of_a_service_are_one_line(service: str) -> None:
    revisions = [assigned(path) for path in MIGRATIONS if path.parts[-4] == service]
    assert revisions
    before = None
    for number, revision in enumerate(revisions, start=1):
        assert revision["down_revision"] == before
        assert str(revision["revision"]).startswith(f"{number:04d}_")
        before = revision["revision"]


def test_no_path_of_one_machine_stands_in_the_tree() -> None:
    found = [
        path
        for path in SOURCES
        if re.search(r"[\"' (](/home/\w|/Users/\w|/work/\w)", (PROJECT / path).read_text(encoding="utf-8"))
        and path != Path(__file__).relative_to(PROJECT)
    ]
    assert found == []
