"""A signature holds for one branch, one command and one value, and for nothing else."""

import base64
import hashlib
import hmac

import pytest

from deploy.local import branch_consumer
from shared.contracts.signature import (
    SIGNATURE,
    SIGNED_HEADERS,
    MalformedKey,
    branch_key,
    is_signed_by,
    read_keys,
    signature,
    signed_bytes,
)

MASTER = bytes(range(32))
OTHER_MASTER = bytes(32)
HEADERS = {
    "ce_id": b"0190a7d2-0000-7000-8000-000000000001",
    "ce_type": b"order.accept",
    "ce_subject": b"0190a7d2-0000-7000-8000-000000000002",
    "ce_source": b"/gongdan/branch/jinan",
    "ce_time": b"2026-11-22T08:00:00+00:00",
}
VALUE = b'{"branch":"jinan","actor":"desk"}'


def signed(master: bytes = MASTER, branch: str = "jinan") -> dict[str, bytes]:
    return {**HEADERS, SIGNATURE: signature(branch_key(master, branch), HEADERS, VALUE)}


def test_it_is_hmac_sha256_over_parts_with_their_lengths() -> None:
    text = b"".join(str(len(part)).encode() + b":" + part + b"," for part in [*HEADERS.values(), VALUE])
    key = hmac.new(MASTER, b"branch:jinan", hashlib.sha256).digest()
    assert signature(key, HEADERS, VALUE) == base64.b64encode(hmac.new(key, text, hashlib.sha256).digest())


def test_the_branch_is_recognised_under_the_new_and_the_old_master() -> None:
    assert is_signed_by("jinan", (OTHER_MASTER, MASTER), signed(), VALUE)
    assert not is_signed_by("jinan", (OTHER_MASTER,), signed(), VALUE)
    assert not is_signed_by("jinan", (), signed(), VALUE)


def test_another_branch_cannot_sign_for_it() -> None:
    assert not is_signed_by("jinan", (MASTER,), signed(branch="qingdao"), VALUE)
    assert not is_signed_by("qingdao", (MASTER,), signed(), VALUE)


@pytest.mark.parametrize("name", SIGNED_HEADERS)
def test_no_signed_header_can_be_changed_or_left_out(name: str) -> None:
    changed = {**signed(), name: HEADERS[name] + b"0"}
    missing = {key: value for key, value in signed().items() if key != name}
    assert not is_signed_by("jinan", (MASTER,), changed, VALUE)
    assert not is_signed_by("jinan", (MASTER,), missing, VALUE)


def test_the_value_cannot_be_changed() -> None:
    assert not is_signed_by("jinan", (MASTER,), signed(), VALUE + b" ")
    assert not is_signed_by("jinan", (MASTER,), HEADERS, VALUE)


def test_nothing_moves_from_one_part_into_the_next() -> None:
    moved = {**HEADERS, "ce_id": HEADERS["ce_id"] + b",12:order", "ce_type": b".accept"}
    assert signed_bytes(moved, VALUE) != signed_bytes(HEADERS, VALUE)


@pytest.mark.parametrize("text", ["x", "AAAA", base64.b64encode(bytes(31)).decode(), "AAAA," * 3])
def test_a_key_that_is_not_32_bytes_is_refused(text: str) -> None:
    with pytest.raises(MalformedKey, match="base64 of 32 bytes"):
        read_keys(text)


def test_there_may_be_two_masters_and_not_three() -> None:
    one, two = base64.b64encode(MASTER).decode(), base64.b64encode(OTHER_MASTER).decode()
    assert read_keys("") == ()
    assert read_keys(f"{one}, {two}\n") == (MASTER, OTHER_MASTER)
    with pytest.raises(MalformedKey, match="at most two"):
        read_keys(f"{one},{one},{two}")


def test_the_example_branch_signs_as_the_contract_says() -> None:
    order = {"ce_id": HEADERS["ce_id"].decode(), "ce_subject": HEADERS["ce_subject"].decode()}
    key = base64.b64encode(branch_key(MASTER, "jinan")).decode()
    command = branch_consumer.command("order.accept", order, "jinan", {}, key)
    assert is_signed_by("jinan", (MASTER,), dict(command["headers"]), command["value"])
    assert SIGNATURE not in dict(branch_consumer.command("order.accept", order, "jinan", {}, None)["headers"])
