"""What counts as personal data in a text, and what only looks like it."""

import pytest

from deploy.audit.personal import Search, has_right_check_digit

PHONE = "13900012345"
# The example that GB 11643-1999 itself prints.
IDENTITY = "11010519491231002X"


def kinds(text: str, *canaries: str) -> list[str]:
    return list(Search(canaries).kinds(text))


@pytest.mark.parametrize("text", [PHONE, f'{{"phone":"{PHONE}"}}', f"手机{PHONE},", f"call {PHONE}.", f"86-{PHONE}"])
def test_a_mobile_number_that_stands_alone_is_found(text: str) -> None:
    assert kinds(text) == ["a mobile number"]


@pytest.mark.parametrize(
    "text",
    [
        "139****2345",
        "019a202b-0001-7000-8000-139000123456",
        "deadbeef13900012345a",
        "0.13900012345",
        "1763804400",
        "1763804400123",
        "1763804400123456",
        "12900012345",
        "139000123456",
        "2026-11-22T10:00:00.139000+00:00",
        "offset 13900012345678",
    ],
)
def test_what_only_holds_such_digits_is_not(text: str) -> None:
    assert kinds(text) == []


def test_an_identity_number_needs_its_date_and_its_check_digit() -> None:
    assert kinds(f"证件 {IDENTITY}") == ["an identity number"]
    assert kinds(f"证件 {IDENTITY.lower()}") == ["an identity number"]
    assert kinds("110105194912310021") == []
    assert kinds("110105194913310020") == []
    assert [last for last in "0123456789X" if has_right_check_digit(IDENTITY[:17] + last)] == ["X"]


@pytest.mark.parametrize(
    "text", ["我是王小明,电话", r"\u738b\u5c0f\u660e", "x王小明y", f"id{PHONE}99", "139 0001 2345", "139-0001-2345"]
)
def test_a_canary_is_found_wherever_it_stands(text: str) -> None:
    assert "a canary" in kinds(text, "王小明", PHONE)


def test_other_texts_hold_no_canary() -> None:
    assert kinds("王小红 138 0001 2345 王", "王小明", PHONE) == []


def test_a_canary_of_one_letter_is_not_looked_for() -> None:
    assert kinds("王小红", "王") == []


def test_a_hit_is_told_by_its_kind_and_once() -> None:
    assert kinds(f"{PHONE} {PHONE} 王小明", "王小明") == ["a canary", "a mobile number"]
