"""Text fields of requests, bounded and storable: PostgreSQL holds any character but NUL."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

STORABLE = r"^[^\x00]*$"

Code = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:\-]+$")]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=256, strip_whitespace=True, pattern=STORABLE)]
Note = Annotated[str, StringConstraints(min_length=1, max_length=4000, strip_whitespace=True, pattern=STORABLE)]
LongText = Annotated[str, StringConstraints(min_length=1, max_length=8000, strip_whitespace=True, pattern=STORABLE)]
Address = Annotated[str, StringConstraints(max_length=512, pattern=STORABLE)]

# What every reader of JSON holds exactly (RFC 8259, section 6).
WholeNumber = Annotated[int, Field(ge=-(2**53), le=2**53)]
RealNumber = Annotated[float, Field(allow_inf_nan=False)]

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
