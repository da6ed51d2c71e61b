"""Masking, sealing, and the customer key."""

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.ids import new_id
from shared.privacy import Vault, mask, mask_value

KEY, OTHER = base64.b64encode(b"k" * 32).decode(), base64.b64encode(b"o" * 32).decode()


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("请打13800001234谢谢", "请打138****1234谢谢"),
        ("+86 138 0000 1234", "+86 138****1234"),
        ("008613800001234", "0086138****1234"),
        ("138.0000.1234、138–0000–1234、138－0000－1234", "138****1234、138****1234、138****1234"),
        ("1 3 8 0 0 0 0 1 2 3 4", "138****1234"),
        ("13800-001234,1380-000-1234", "138****1234,138****1234"),
        ("1380000\n1234", "138****1234"),
        ("(0531)88881234", "(0531****1234"),
        ("老身份证370102800101123", "老身份证************123"),
        ("1380000123413900005678", "138********5678"),
        ("电话１３８００００１２３４", "电话138****1234"),
        ("身份证37010219800101123X", "身份证**************123X"),
        ("卡号6222 0212 3456 7890 123", "卡号6222********0123"),
        ("固话0531-88881234", "固话0531****1234"),
        ("充值100元,2026年11月22日,工单T20261122-0000012", "充值100元,2026年11月22日,工单T20261122-0000012"),
    ],
)
def test_numbers_are_masked_and_facts_stay(text: str, masked: str) -> None:
    assert mask(text) == masked


def test_a_phone_given_as_a_number_is_masked_and_other_numbers_stay() -> None:
    assert mask_value(13800001234) == "138****1234"
    assert [mask_value(value) for value in (12, 3.5, True, None, 20261122)] == [12, 3.5, True, None, 20261122]


def test_the_customers_name_is_masked_where_it_is_known() -> None:
    assert mask("我是欧阳明月", "欧阳明月") == "我是欧***"


@given(st.text(max_size=40), st.from_regex(r"\A1[3-9][0-9]{9}\Z"), st.text(max_size=40))
def test_no_mobile_number_survives(before: str, phone: str, after: str) -> None:
    text = f"{before} {phone} {after}"
    assert not re.search(rf"(?<!\d){phone}(?!\d)", mask(text))


def test_what_was_sealed_opens_for_its_own_ticket_and_key_only() -> None:
    vault, ticket = Vault(KEY, OTHER), new_id()
    sealed = vault.seal(ticket, b"13800001234")
    assert b"13800001234" not in sealed
    assert vault.open(ticket, sealed) == b"13800001234"
    for other, row in ((new_id(), sealed), (ticket, sealed[:-1] + bytes([sealed[-1] ^ 1]))):
        with pytest.raises(ValueError, match="does not open"):
            vault.open(other, row)
    with pytest.raises(ValueError, match="does not open"):
        Vault(OTHER, OTHER).open(ticket, sealed)


def test_one_customer_has_one_key_however_the_phone_is_written() -> None:
    vault = Vault(KEY, OTHER)
    keys = {vault.customer_key(phone) for phone in ("13800001234", "+86 138 0000 1234", "86-13800001234")}
    assert len(keys) == 1
    assert vault.customer_key("13800001235") not in keys
    assert Vault(KEY, KEY).customer_key("13800001234") not in keys


@pytest.mark.parametrize("key", ["short", base64.b64encode(b"x" * 31).decode(), "?" * 44])
def test_a_bad_key_is_refused_at_the_start(key: str) -> None:
    with pytest.raises(ValueError, match="key must"):
        Vault(key, KEY)
