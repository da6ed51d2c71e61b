"""What the tables of every service write the same way."""

from enum import StrEnum

from pydantic import BaseModel
from sqlalchemy import CheckConstraint, DateTime

Time = DateTime(timezone=True)


class Json(str):
    """JSON text for a `jsonb` column, written as it is: a model that renders itself need not pass through a dict."""

    @classmethod
    def of(cls, model: BaseModel) -> "Json":
        return cls(model.model_dump_json(exclude_none=True))


def one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    """The column holds one of these codes; the constraint is called `<column>_known`."""
    listed = ", ".join(repr(str(value)) for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")
