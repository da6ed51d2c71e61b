"""The signature by which a command on `gongdan.branch.replies` shows that its branch sent it.

Every branch may write on that topic and Kafka does not tell a reader who wrote, so a branch signs: `ce_signature` is
base64 of HMAC-SHA256 (RFC 2104) under the branch's reply key. dispatch makes every branch's key from one master and
so keeps no list of them. Decision 0011 says why.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping

SIGNATURE = "ce_signature"
SIGNED_HEADERS = ("ce_id", "ce_type", "ce_subject", "ce_source", "ce_time")
KEY_BYTES = 32
MOST_MASTERS = 2


class MalformedKey(ValueError):
    """A reply key or a master that is not base64 of 32 bytes."""


def read_keys(text: str) -> tuple[bytes, ...]:
    """One master, or two with a comma between them; none in an empty text. Raises `MalformedKey`."""
    keys = tuple(read_key(part) for part in text.split(",")) if text else ()
    if len(keys) > MOST_MASTERS:
        raise MalformedKey("at most two keys: the new and the old one")
    return keys


def read_key(text: str) -> bytes:
    """Raises `MalformedKey`."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise MalformedKey(f"a key is base64 of {KEY_BYTES} bytes")
    return key


def branch_key(master: bytes, branch: str) -> bytes:
    """The reply key of one branch: what it is given, and all that it can sign for."""
    return hmac.digest(master, f"branch:{branch}".encode(), hashlib.sha256)


def signed_bytes(headers: Mapping[str, bytes], value: bytes) -> bytes:
    """What is signed: the headers of `SIGNED_HEADERS` as they are sent, then the record's value, each with its length
    in bytes before it (`36:…,`), so that nothing can move from one part into the next."""
    parts = [*(headers.get(name, b"") for name in SIGNED_HEADERS), value]
    return b"".join(b"%d:%b," % (len(part), part) for part in parts)


def signature(key: bytes, headers: Mapping[str, bytes], value: bytes) -> bytes:
    """The value of the header `ce_signature`."""
    return base64.b64encode(hmac.digest(key, signed_bytes(headers, value), hashlib.sha256))


def is_signed_by(branch: str, masters: Iterable[bytes], headers: Mapping[str, bytes], value: bytes) -> bool:
    given = headers.get(SIGNATURE, b"")
    expected = [signature(branch_key(master, branch), headers, value) for master in masters]
    return any([hmac.compare_digest(given, one) for one in expected])
