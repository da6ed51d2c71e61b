"""Masking, sealing, and the customer key."""

import base64
import re

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from shared.ids import new_id
from shared.privacy import KeyMissing, Vault, mask, mask_json, mask_name, mask_phone, mask_value

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
        (
            "工单01a202f8-f0e1-7515-9187-52cfb8a7dd76,13800001234",
            "工单01a202f8-f0e1-7515-9187-52cfb8a7dd76,138****1234",
        ),
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
    with pytest.raises(KeyMissing, match="not among the data keys"):
        Vault(OTHER, OTHER).open(ticket, sealed)


def test_the_first_key_seals_and_all_open() -> None:
    ticket = new_id()
    before, both, after = Vault(KEY, KEY), Vault(f"{OTHER}, {KEY}", KEY), Vault(OTHER, KEY)
    old = before.seal(ticket, b"x")
    assert both.open(ticket, old) == b"x"
    renewed = both.seal(ticket, b"x")
    assert renewed.startswith(both.prefix)
    assert not old.startswith(both.prefix)
    assert after.open(ticket, renewed) == b"x"
    with pytest.raises(KeyMissing):
        after.open(ticket, old)


def test_what_was_sealed_before_keys_had_ids_still_opens() -> None:
    ticket, nonce = new_id(), b"n" * 12
    old = b"\x01" + nonce + AESGCM(b"k" * 32).encrypt(nonce, b"x", ticket.bytes)
    assert Vault(f"{OTHER},{KEY}", KEY).open(ticket, old) == b"x"
    with pytest.raises(ValueError, match="does not open"):
        Vault(OTHER, KEY).open(ticket, old)


@pytest.mark.parametrize(
    ("phone", "shown"), [("13800001234", "138****1234"), ("+86 13800001234", "138****1234"), ("88881234", "****34")]
)
def test_enough_of_a_phone_is_shown_to_recognise_it(phone: str, shown: str) -> None:
    assert mask_phone(phone) == shown


def test_enough_of_a_name_is_shown_to_recognise_it() -> None:
    assert [mask_name(name) for name in ("王", "王五", "欧阳明月")] == ["王*", "王*", "欧***"]


def test_json_stays_json_when_it_is_masked() -> None:
    identity = "01381380-0000-7138-8000-138000012341"
    given = {
        "note": "打13800001234",
        "n": 13800001234,
        "id": identity,
        "list": [1, None, "13800001234"],
        "13800001234": 1,
    }
    assert mask_json(given) == {
        "note": "打138****1234",
        "n": "138****1234",
        "id": identity,
        "list": [1, None, "138****1234"],
        "138****1234": 1,
    }


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
