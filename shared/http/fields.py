"""Text fields of requests, bounded and storable: PostgreSQL holds any character but NUL."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

STORABLE = r"^[^\x00]*$"

Code = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:\-]+$")]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=256, strip_whitespace=True, pattern=STORABLE)]
Note = Annotated[str, StringConstraints(min_length=1, max_length=4000, strip_whitespace=True, pattern=STORABLE)]
LongText = Annotated[str, StringConstraints(min_length=1, max_length=8000, strip_whitespace=True, pattern=STORABLE)]
Address = Annotated[str, StringConstraints(max_length=512, pattern=STORABLE)]


class RequestModel(BaseModel):
    """Base of every request. A misspelt field is refused, so that nothing a caller said is dropped unseen."""

    model_config = ConfigDict(extra="forbid", frozen=True)
