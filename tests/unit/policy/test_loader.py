"""Loading packs: errors name file, line and field, and YAML holds no surprises."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.policy import PackError, load_pack, load_pack_file
from shared.policy.loader import main
from shared.policy.reading import PACKS, parse
from tests.unit.policy.tickets import PACK

TEXT = (PACKS / PACK / "pack.yaml").read_text(encoding="utf-8")


@pytest.fixture
def broken(tmp_path: Path) -> Callable[[str, str], str]:
    """Replaces one text of the pack by another and gives the error's message."""

    def load(old: str, new: str) -> str:
        assert TEXT.count(old) >= 1, old
        path = tmp_path / "pack.yaml"
        path.write_text(TEXT.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(PackError) as caught:
            load_pack_file(path)
        return str(caught.value)

    return load


def line_of(old: str) -> int:
    return TEXT[: TEXT.index(old)].count("\n") + 1


@pytest.mark.parametrize(
    ("old", "new", "field", "what"),
    [
        ("timezone: Asia/Shanghai", "timezone: Asia/Nowhere", "timezone", "no such time zone"),
        ("{channel: points_base}, kind: grumble", "{chanel: points_base}, kind: grumble", "chanel", "unknown fact"),
        ("{channel: points_base}, kind: grumble", "{channel: points}, kind: grumble", "channel", "'points'"),
        ("kind: grumble}", "kind: grumbles}", "kind_rules.0.kind", "'grumbles' is not among the kinds"),
        ("limit: {hours: 1}", "limit: {hours: 1, minutes: 3}", "limit", "exactly one of"),
        ("limit: {hours: 1}", "limit: {hour: 1}", "limit.hour", "not permitted"),
        ("add: level_skipping", "add: level", "class_rules.1.add", "'level' is not among the classes"),
        ("'骚扰电话|电话骚扰|响一声|恐吓电话'", "'(骚扰'", "content.matches", "not a regular expression"),
        ("branch: [element.card_city, home_city]", "branch: [element.card_town]", "branch.0", "targets"),
        ("{event: review.returned}", "{event: review.sent_back}", "event", "not among the event types"),
        ("elements: [caller_number]", "elements: [caller]", "elements.0", "not among the elements"),
        ("cites: [DET-20], level", "when: {kind: grumble}, level", "urgency_rules.2", "must hold always"),
        ("{duplicate} 尚在处理", "{lookup} 尚在处理", "message", "a message may use only"),
    ],
)
def test_an_error_names_line_and_field(
    broken: Callable[[str, str], str], old: str, new: str, field: str, what: str
) -> None:
    message = broken(old, new)
    found = re.search(r"pack\.yaml:(\d+): (\S+): ", message)
    assert found is not None
    assert abs(int(found[1]) - line_of(old)) <= 2, message
    assert found[2].endswith(field), message
    assert what in message


def test_a_missing_field_is_named(broken: Callable[[str, str], str]) -> None:
    assert "timezone: Field required" in broken("timezone: Asia/Shanghai\n", "")


def test_a_key_that_stands_twice_is_an_error(broken: Callable[[str, str], str]) -> None:
    message = broken("timezone: Asia/Shanghai\n", "timezone: Asia/Shanghai\ntimezone: UTC\n")
    assert f":{line_of('timezone:') + 1}: timezone: this key stands twice" in message


def test_a_code_that_is_defined_twice_is_an_error(broken: Callable[[str, str], str]) -> None:
    assert "'app' is defined twice" in broken("{id: fax,", "{id: app,")


def test_text_cut_by_a_comma_is_an_error(broken: Callable[[str, str], str]) -> None:
    assert "not permitted" in broken("{zh: 10086 热线, en:", "{zh: 10086,热线, en:")


def test_broken_yaml_is_named_with_its_line(broken: Callable[[str, str], str]) -> None:
    assert re.search(r"pack\.yaml:\d+: not YAML", broken("id: mobile_operator", "id: [mobile_operator"))


def test_a_control_character_is_no_yaml(broken: Callable[[str, str], str]) -> None:
    assert "not YAML" in broken("id: mobile_operator", "id: mobile\x00operator")


def test_yaml_reads_words_as_words() -> None:
    data, lines = parse("on: no\nat: 17:00\nfrom: 2026-01-01\nn: 3\nx: 1.5\nyes: true\nnone: null\n", "t.yaml")
    assert data == {"on": "no", "at": "17:00", "from": "2026-01-01", "n": 3, "x": 1.5, "yes": True, "none": None}
    assert lines[("x",)] == 5


def test_packs_are_found_by_name_only() -> None:
    assert load_pack(PACK) is load_pack(PACK)
    for name in ("../mobile_operator", "nobody", "Mobile"):
        with pytest.raises(PackError):
            load_pack(name)


def test_the_command_prints_a_summary_or_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([PACK]) == 0
    assert "routing rules: " in capsys.readouterr().out
    assert main(["nobody"]) == 1
    assert "nobody/pack.yaml" in capsys.readouterr().err
    assert main([]) == 2
