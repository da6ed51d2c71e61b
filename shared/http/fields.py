"""Text fields of requests, bounded and storable: PostgreSQL holds any character but NUL."""

from datetime import UTC, datetime
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

Code = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:\-]+$")]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=256, strip_whitespace=True, pattern=STORABLE)]
Note = Annotated[str, StringConstraints(min_length=1, max_length=4000, strip_whitespace=True, pattern=STORABLE)]
LongText = Annotated[str, StringConstraints(min_length=1, max_length=8000, strip_whitespace=True, pattern=STORABLE)]
Address = Annotated[str, StringConstraints(max_length=512, pattern=STORABLE)]

# What every reader of JSON holds exactly (RFC 8259, section 6).
WholeNumber = Annotated[int, Field(ge=-(2**53), le=2**53)]
RealNumber = Annotated[float, Field(allow_inf_nan=False, ge=-(2**53), le=2**53)]


def _short(value: Any) -> Any:
    if isinstance(value, str) and len(value) > 32:
        raise ValueError("at most 32 characters are expected")
    return value


Amount = Annotated[
    Decimal,
    Field(ge=0, max_digits=12, decimal_places=2),
    BeforeValidator(_short),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 9_999_999_999.99},
                {"type": "string", "pattern": r"^[0-9]{1,10}(\.[0-9]{1,2})?$"},
            ]
        }
    ),
]
"""Yuan, with at most two decimals; as a string it keeps them exactly."""

EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


def _within_reason(moment: datetime) -> datetime:
    if not EARLIEST <= moment < LATEST:
        raise ValueError("a time between 2000 and 2100 is expected")
    return moment


Moment = Annotated[AwareDatetime, AfterValidator(_within_reason)]
"""A time with its offset, in years that clocks and calendars can reckon with."""


class RequestModel(BaseModel):
    """Base of every request. A misspelt field is refused, so that nothing a caller said is dropped unseen."""

    model_config = ConfigDict(extra="forbid", frozen=True)
