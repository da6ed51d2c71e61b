"""What the tables of every service write the same way."""

from enum import StrEnum

from sqlalchemy import CheckConstraint, DateTime

Time = DateTime(timezone=True)


def one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    """The column holds one of these codes; the constraint is called `<column>_known`."""
    listed = ", ".join(repr(str(value)) for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")
