"""Personal data: encryption at rest, the keyed hash that stands for a customer, and masking of text.

Personal data lives in intake's tables only, as AES-256-GCM with the ticket id as associated data, so that a ciphertext
moved to another row does not open. What leaves intake is the hash, and text with numbers masked.
"""

import base64
import hashlib
import hmac
import os
import re
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
VERSION = b"\x01"
CUSTOMER_KEY_HEX = 32

# What people put between digits: spaces of any kind, dashes, dots, brackets, in either width.
_BETWEEN = r"[\s\-\u2010-\u2015\uff0d.\uff0e\u00b7()\uff08\uff09_]{0,2}"
_DIGIT_RUN = re.compile(rf"\d(?:{_BETWEEN}\d){{6}}")
_IDENTITY = re.compile(r"(?<![0-9A-Za-z])(\d{6})\d{8}(\d{3}[0-9Xx])(?![0-9A-Za-z])")
_OLD_IDENTITY = re.compile(r"(?<!\d)\d{8}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(\d{3})(?!\d)")
_MOBILE = re.compile(rf"(?<!\d)((?:(?:\+|00)?86{_BETWEEN})?)(1{_BETWEEN}[3-9](?:{_BETWEEN}\d){{9}})(?!\d)")
_CARD = re.compile(r"(?<!\d)\d(?:[- ]?\d){15,18}(?!\d)")
_LANDLINE = re.compile(rf"(?<!\d)0\d{{2,3}}{_BETWEEN}\d{{7,8}}(?!\d)")
_LONG_RUN = re.compile(r"\d{20,}")
_FULLWIDTH_DIGIT = re.compile("[０-９]")
_FULLWIDTH = str.maketrans("０１２３４５６７８９", "0123456789")


def mask(text: str, name: str | None = None) -> str:
    """The text with phone, identity and card numbers masked (138****0000; only the last four of an identity number).

    `name` is the customer's, where it is known; it is masked too.
    """
    if name is not None and len(name) > 1:
        text = text.replace(name, name[0] + "*" * (len(name) - 1))
    if _FULLWIDTH_DIGIT.search(text) is not None:
        text = text.translate(_FULLWIDTH)
    if _DIGIT_RUN.search(text) is None:
        return text
    # Order matters: an identity number holds runs that look like phones.
    text = _IDENTITY.sub(r"**************\2", text)
    text = _OLD_IDENTITY.sub(r"************\1", text)
    text = _MOBILE.sub(lambda found: found[1] + _ends(found[2], 3), text)
    text = _CARD.sub(lambda found: _ends(found[0], 4, "********"), text)
    text = _LANDLINE.sub(lambda found: _ends(found[0], 4), text)
    return _LONG_RUN.sub(lambda found: _ends(found[0], 3, "********"), text)


def mask_value(value: str | int | float | bool | None, name: str | None = None) -> str | int | float | bool | None:
    """An element as others may see it. A number may be somebody's phone as well as a text."""
    if isinstance(value, str):
        return mask(value, name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        shown = mask(str(value))
        return value if shown == str(value) else shown
    return value


def _ends(text: str, kept: int, middle: str = "****") -> str:
    digits = re.sub(r"\D", "", text)
    return f"{digits[:kept]}{middle}{digits[-4:]}"


class Vault:
    """Encrypts personal data and makes customer keys. Both keys are 32 bytes, given as base64."""

    def __init__(self, data_key: str, index_key: str) -> None:
        self._cipher = AESGCM(_key(data_key))
        self._index_key = _key(index_key)

    def seal(self, ticket_id: UUID, clear: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return VERSION + nonce + self._cipher.encrypt(nonce, clear, ticket_id.bytes)

    def open(self, ticket_id: UUID, sealed: bytes) -> bytes:
        """Raises `ValueError` when the row was altered, moved, or sealed with another key."""
        nonce, body = sealed[1 : 1 + NONCE_BYTES], sealed[1 + NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, body, ticket_id.bytes)
        except InvalidTag:
            raise ValueError("the personal data of this row does not open with the key in use") from None

    def customer_key(self, phone: str) -> str:
        """The blind index of a customer: the same phone gives the same key, and the key tells nothing of the phone."""
        digits = re.sub(r"\D", "", phone)
        if len(digits) == 13 and digits.startswith("86"):
            digits = digits[2:]
        return hmac.new(self._index_key, digits.encode(), hashlib.sha256).hexdigest()[:CUSTOMER_KEY_HEX]


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("a key must be base64") from None
    if len(key) != 32:
        raise ValueError("a key must have 32 bytes")
    return key
