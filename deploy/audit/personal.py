"""The search for personal data: known canaries, and what looks like a mobile or an identity number.

What looks like a number counts only where it stands alone, with no letter, digit, star or decimal point beside it: a
part of a UUID, of a hash or of a fraction is no phone, and a masked number is not a whole one. A mobile number has 11
digits and begins with 13 to 19, so a moment in seconds, milliseconds or microseconds (10, 13 or 16 digits) is none. An
identity number holds a date of birth and the right check digit (GB 11643-1999, ISO 7064 MOD 11-2), which few of all
numbers with 18 digits do. A canary counts wherever it stands, inside other text too, and one of digits also where
blanks or dashes part them.
"""

import re
from collections.abc import Iterable, Iterator

MOBILE = re.compile(r"(?<![0-9A-Za-z.*])1[3-9][0-9]{9}(?![0-9A-Za-z*]|\.[0-9])")
IDENTITY = re.compile(
    r"(?<![0-9A-Za-z.*])[1-9][0-9]{5}(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
    r"[0-9]{3}[0-9Xx](?![0-9A-Za-z*]|\.[0-9])"
)
NUMBER = re.compile(r"[0-9]{6,}[0-9Xx]")
SPACED = re.compile(r"[0-9](?:[ -]?[0-9]){5,}[ -]?[0-9Xx]")
SEPARATOR = re.compile("[ -]")
ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
CHECK_DIGITS = "10X98765432"
# A name of one letter stands everywhere.
SHORTEST = 2


def has_right_check_digit(identity: str) -> bool:
    total = sum(int(digit) * weight for digit, weight in zip(identity, WEIGHTS, strict=False))
    return CHECK_DIGITS[total % 11] == identity[17].upper()


class Search:
    """Finds personal data in text. What it says of a hit is its kind, never the value."""

    def __init__(self, canaries: Iterable[str] = ()) -> None:
        known = {canary for canary in canaries if len(canary) >= SHORTEST}
        self._numbers = {canary.upper() for canary in known if NUMBER.fullmatch(canary)}
        self._texts = known - {canary for canary in known if NUMBER.fullmatch(canary)}
        self._number_lengths = sorted({len(canary) for canary in self._numbers})
        self._text_lengths = sorted({len(canary) for canary in self._texts})
        firsts = "".join(sorted({re.escape(canary[0]) for canary in self._texts}))
        self._firsts = re.compile(f"[{firsts}]") if firsts else None

    def kinds(self, text: str) -> Iterator[str]:
        """The kinds of personal data in the text, each once."""
        if "\\u" in text:
            text = ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)
        if self._has_text(text) or self._has_number(text):
            yield "a canary"
        if MOBILE.search(text) is not None:
            yield "a mobile number"
        if any(has_right_check_digit(found[0]) for found in IDENTITY.finditer(text)):
            yield "an identity number"

    def _has_text(self, text: str) -> bool:
        if self._firsts is None:
            return False
        return any(
            text[found.start() : found.start() + length] in self._texts
            for found in self._firsts.finditer(text)
            for length in self._text_lengths
        )

    def _has_number(self, text: str) -> bool:
        if not self._numbers:
            return False
        for found in SPACED.finditer(text):
            digits = SEPARATOR.sub("", found[0]).upper()
            for length in self._number_lengths:
                if any(digits[at : at + length] in self._numbers for at in range(len(digits) - length + 1)):
                    return True
        return False
