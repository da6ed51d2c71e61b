"""What a run writes, and under which name."""

import json
from pathlib import Path

import pytest

from tests.bench.figures import Cpu, Figure, Findings, Target
from tests.bench.parts import PARTS
from tests.bench.run import arguments, files, plain
from tests.bench.stand import Options


def test_a_part_chosen_by_name_does_not_take_the_place_of_a_whole_run(tmp_path: Path) -> None:
    parts = [part for part in PARTS if part.name == "accept"]
    whole, _ = files(tmp_path, Options(), PARTS)
    named, markdown = files(tmp_path, Options(broker="kafka", named=True), parts)
    assert whole.name.endswith("-embedded.json")
    assert named.name.endswith("-kafka-accept.json")
    assert markdown.name == named.name.replace(".json", ".md")


def test_what_follows_from_the_figures_is_in_the_json() -> None:
    target = Target("at least", 0.6, "ratio")
    found = Findings([Figure("rate", "/s", [600.0], [1000.0], "bare", target)], [Cpu("x", [{"intake": 1.0}])])
    written = json.loads(json.dumps(plain(found)))
    assert written["figures"][0]["ratios"] == [0.6]
    assert written["figures"][0]["met"] is True
    assert written["cpu"] == [{"name": "x", "rounds": [{"intake": 1.0}]}]


def test_make_gives_its_variables_and_empty_ones_count_as_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PARTS", "accept"), ("BROKER", "kafka"), ("ROUNDS", "5"), ("SIZE", "")):
        monkeypatch.setenv(name, value)
    given = arguments([])
    assert [part.name for part in given.parts] == ["accept"]
    assert (given.broker, given.rounds, given.size) == ("kafka", 5, 0)


def test_an_unknown_part_is_refused_with_the_names_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--parts", "nothing"])
    assert "no part nothing; there are limits" in capsys.readouterr().err
