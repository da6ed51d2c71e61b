"""Text fields of requests, bounded and storable: PostgreSQL holds any character but NUL."""

import re
from datetime import date
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

STORABLE = r"^[^\x00]*$"
# Besides, one character that is seen: neither a control character nor white space (Unicode, White_Space).
SEEN = r"^[^\x00]*[^\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000][^\x00]*$"

Code = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:\-]+$")]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=256, strip_whitespace=True, pattern=SEEN)]
Note = Annotated[str, StringConstraints(min_length=1, max_length=4000, strip_whitespace=True, pattern=SEEN)]
LongText = Annotated[str, StringConstraints(min_length=1, max_length=8000, strip_whitespace=True, pattern=SEEN)]
Address = Annotated[str, StringConstraints(max_length=512, pattern=STORABLE)]

# What every reader of JSON holds exactly (RFC 8259, section 6).
WholeNumber = Annotated[int, Field(strict=True, ge=-(2**53), le=2**53)]
RealNumber = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-(2**53), le=2**53)]
YesNo = Annotated[bool, Field(strict=True)]


def _a_number(given: Any) -> Any:
    if isinstance(given, bool | str):
        raise ValueError("a number is expected")
    return given


Count = Annotated[int, BeforeValidator(_a_number)]
"""For a number of things, with bounds by `Field`. 5.0 is 5 (JSON Schema, integer); "5" and true are not."""


def _short(given: Any) -> Any:
    if isinstance(given, str) and len(given) > 32:
        raise ValueError("at most 32 characters are expected")
    return given


Yuan = Annotated[
    Decimal,
    Field(ge=0, max_digits=12, decimal_places=2),
    BeforeValidator(_short),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 9999999999.99, "multipleOf": 0.01},
                {"type": "string", "pattern": r"^[0-9]{1,10}(\.[0-9]{1,2})?$"},
            ]
        }
    ),
]

_DAY = r"^20[0-9]{2}-[0-9]{2}-[0-9]{2}"
_TIME = _DAY + "[Tt ]"


def _written_as(pattern: str, example: str) -> BeforeValidator:
    """A bare number would be read as seconds since 1970, which no document promises."""
    expected = re.compile(pattern)

    def check(given: Any) -> Any:
        if isinstance(given, date) or (isinstance(given, str) and expected.match(given)):
            return given
        raise ValueError(f"text such as {example} is expected, between 2000 and 2100")

    return BeforeValidator(check)


def _within_reason(given: Any) -> Any:
    if not 2000 <= given.year < 2100:
        raise ValueError("a time between 2000 and 2100 is expected")
    return given


Moment = Annotated[
    AwareDatetime,
    _written_as(_TIME, "2026-11-22T08:00:00+08:00"),
    AfterValidator(_within_reason),
    Field(json_schema_extra={"pattern": _TIME}),
]
"""A time with its offset, in years that clocks and calendars can reckon with."""

Day = Annotated[
    date,
    _written_as(_DAY + "$", "2026-11-22"),
    AfterValidator(_within_reason),
    Field(json_schema_extra={"pattern": _DAY + "$"}),
]
"""A day of the calendar, in the same years."""


class RequestModel(BaseModel):
    """Base of every request. A misspelt field is refused, so that nothing a caller said is dropped unseen."""

    model_config = ConfigDict(extra="forbid", frozen=True)
