"""Personal data: encryption at rest, the keyed hash that stands for a customer, and masking of text.

Personal data lives in intake's tables only, as AES-256-GCM with the ticket id as associated data, so that a ciphertext
moved to another row does not open. What leaves intake is the hash, and text with numbers masked.
"""

import base64
import contextlib
import hashlib
import hmac
import os
import re
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
# So many are fetched at a time.
NONCES = 256
KEY_ID_BYTES = 4
FORMAT_WITHOUT_KEY = b"\x01"
FORMAT = b"\x02"
CUSTOMER_KEY_HEX = 32
REFERENCE = "hashed:"

# What people put between digits: spaces of any kind, dashes, dots, brackets, in either width.
_BETWEEN = r"[\s\-\u2010-\u2015\uff0d.\uff0e\u00b7()\uff08\uff09_]{0,2}"
# The shortest that is masked, a landline with its area code, has ten digits.
_DIGIT_RUN = re.compile(rf"\d(?:{_BETWEEN}\d){{9}}")
# The shortest identity or card number has fifteen.
_LONG_NUMBER = 15
_IDENTITY = re.compile(r"(?<![0-9A-Za-z])(\d{6})\d{8}(\d{3}[0-9Xx])(?![0-9A-Za-z])")
_OLD_IDENTITY = re.compile(r"(?<!\d)\d{8}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(\d{3})(?!\d)")
_MOBILE = re.compile(rf"(?<!\d)((?:(?:\+|00)?86{_BETWEEN})?)(1{_BETWEEN}[3-9](?:{_BETWEEN}\d){{9}})(?!\d)")
_CARD = re.compile(r"(?<![\dT])\d(?:[- ]?\d){15,18}(?!\d)")
_LANDLINE = re.compile(rf"(?<!\d)0\d{{2,3}}{_BETWEEN}\d{{7,8}}(?!\d)")
_NO_DIGITS = re.compile(r"\D+")
_LONG_RUN = re.compile(r"\d{20,}")
# Our own ids: the digits of one in a few hundred look like a phone.
_UUID = re.compile(r"(?<![0-9A-Za-z])([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})(?![0-9A-Za-z])")
_FULLWIDTH_DIGIT = re.compile("[０-９]")
_FULLWIDTH = str.maketrans("０１２３４５６７８９", "0123456789")


def mask(text: str, name: str | None = None) -> str:
    """The text with phone, identity and card numbers masked (138****0000; only the last four of an identity number).

    UUIDs stay as they are.

    `name` is the customer's, where it is known; it is masked too.
    """
    if name is not None and len(name) > 1:
        text = text.replace(name, name[0] + "*" * (len(name) - 1))
    if _FULLWIDTH_DIGIT.search(text) is not None:
        text = text.translate(_FULLWIDTH)
    if _DIGIT_RUN.search(text) is None:
        return text
    if "-" not in text:
        return _masked(text)
    parts = _UUID.split(text)
    return "".join(part if index % 2 else _masked(part) for index, part in enumerate(parts))


def _masked(text: str) -> str:
    # Most texts with digits have few of them, and need not be searched for long numbers: 2 of 5 µs.
    long = len(_NO_DIGITS.sub("", text)) >= _LONG_NUMBER
    # Order matters: an identity number holds runs that look like phones.
    if long:
        text = _IDENTITY.sub(r"**************\2", text)
        text = _OLD_IDENTITY.sub(r"************\1", text)
    text = _MOBILE.sub(lambda found: found[1] + _ends(found[2], 3), text)
    if long:
        text = _CARD.sub(lambda found: _ends(found[0], 4, "********"), text)
    text = _LANDLINE.sub(lambda found: _ends(found[0], 4), text)
    return _LONG_RUN.sub(lambda found: _ends(found[0], 3, "********"), text) if long else text


def mask_value(value: str | int | float | bool | None, name: str | None = None) -> str | int | float | bool | None:
    """An element as others may see it. A number may be somebody's phone as well as a text."""
    if isinstance(value, str):
        return mask(value, name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        shown = mask(str(value))
        return value if shown == str(value) else shown
    return value


def mask_json(value: Any) -> Any:
    """Every text and number in parsed JSON masked, names of fields too."""
    if isinstance(value, dict):
        return {mask(name): mask_json(each) for name, each in value.items()}
    if isinstance(value, list):
        return [mask_json(each) for each in value]
    return mask_value(value)


def digits_of(phone: str) -> str:
    """A phone without what stands between its digits."""
    return phone if phone.isdecimal() else _NO_DIGITS.sub("", phone)


def mask_phone(phone: str) -> str:
    """What a person who may not know a phone sees of it: 138****0000; two digits at most of a short one."""
    digits = digits_of(phone)
    digits = digits.removeprefix("86") if len(digits) == 13 else digits
    return _ends(digits, 3) if len(digits) >= 11 else f"****{digits[-2:]}"


def mask_name(name: str) -> str:
    """The first character and stars."""
    return name[:1] + "*" * max(1, len(name) - 1)


def _ends(text: str, kept: int, middle: str = "****") -> str:
    digits = re.sub(r"\D", "", text)
    return f"{digits[:kept]}{middle}{digits[-4:]}"


class KeyMissing(ValueError):
    """The key that sealed this is not among those given."""


class Vault:
    """Encrypts personal data and makes customer keys. Every key is 32 bytes, given as base64.

    `data_keys` are separated by commas: the first seals, all open. A sealed text is its format (one byte), the id of
    its key (four bytes, from format 2 on), the nonce, and the ciphertext.
    """

    def __init__(self, data_keys: str, index_key: str) -> None:
        keys = [_key(text.strip()) for text in data_keys.split(",")]
        self._ciphers = {hashlib.sha256(key).digest()[:KEY_ID_BYTES]: AESGCM(key) for key in keys}
        self._sealing = self._ciphers[hashlib.sha256(keys[0]).digest()[:KEY_ID_BYTES]]
        self._nonces: list[bytes] = []
        # Keyed once: with `hmac.digest` each customer key cost 0.5 µs more.
        self._indexing = hmac.new(_key(index_key), digestmod="sha256")
        self.prefix = FORMAT + next(iter(self._ciphers))
        """How a text begins that was sealed with the first key."""
        self.older_prefixes = [FORMAT_WITHOUT_KEY, *(FORMAT + name for name in list(self._ciphers)[1:])]
        """How texts begin that may open, but were sealed otherwise."""

    def seal(self, ticket_id: UUID, clear: bytes) -> bytes:
        nonce = self._nonce()
        return self.prefix + nonce + self._sealing.encrypt(nonce, clear, ticket_id.bytes)

    def _nonce(self) -> bytes:
        """Random, and never given twice. A system call for each cost 3 µs under load."""
        try:
            return self._nonces.pop()
        except IndexError:
            fresh = os.urandom(NONCE_BYTES * NONCES)
            self._nonces = [fresh[start : start + NONCE_BYTES] for start in range(0, len(fresh), NONCE_BYTES)]
            return self._nonces.pop()

    def open(self, ticket_id: UUID, sealed: bytes) -> bytes:
        """Raises `KeyMissing` when its key is not among those given, `ValueError` when it was altered or moved."""
        if sealed[:1] == FORMAT_WITHOUT_KEY:
            ciphers, start = list(self._ciphers.values()), 1
        else:
            start = 1 + KEY_ID_BYTES
            cipher = self._ciphers.get(sealed[1:start])
            if cipher is None:
                raise KeyMissing("the key that sealed this row is not among the data keys")
            ciphers = [cipher]
        nonce, body = sealed[start : start + NONCE_BYTES], sealed[start + NONCE_BYTES :]
        for cipher in ciphers:
            with contextlib.suppress(InvalidTag):
                return cipher.decrypt(nonce, body, ticket_id.bytes)
        raise ValueError("the personal data of this row does not open with the keys in use")

    def customer_key(self, phone: str) -> str:
        """The blind index of a customer: the same phone gives the same key, and the key tells nothing of the phone."""
        digits = digits_of(phone)
        if len(digits) == 13 and digits.startswith("86"):
            digits = digits[2:]
        return self._index(digits)

    def reference(self, text: str) -> str:
        """Stands for a channel's own reference that must not be kept as it is; the same text gives the same. What is
        one already stays as it is."""
        if text.startswith(REFERENCE):
            return text
        return REFERENCE + self._index(f"reference:{text}")

    def _index(self, text: str) -> str:
        index = self._indexing.copy()
        index.update(text.encode())
        return index.hexdigest()[:CUSTOMER_KEY_HEX]


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("a key must be base64") from None
    if len(key) != 32:
        raise ValueError("a key must have 32 bytes")
    return key
