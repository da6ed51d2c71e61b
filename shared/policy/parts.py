"""The base of everything in a pack: immutable, and an unknown field is an error."""

import re
import warnings
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shared.contracts import dispatch as contracts

Code = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$", max_length=64)]
"""An id or one segment of a category path; never a dot, because dots join paths."""


def compiled(text: str) -> re.Pattern[str]:
    """Raises `ValueError` for what is no regular expression, or one that a later Python reads in another way."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return re.compile(text)
        except (re.error, OverflowError, RecursionError, Warning) as error:
            raise ValueError(f"not a regular expression: {error}") from None


def _compiles(value: str) -> str:
    # As it stands among others in one search: flags for the whole expression would be refused there.
    compiled(f"(?:{value})")
    return value


Pattern = Annotated[str, AfterValidator(_compiles)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Label(contracts.Label):
    """A text in both languages. Stricter than on the wire: a stray comma in YAML would silently cut a text."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RuleModel(Part):
    """Something that is cited. `id` is the rule's id in domain.md (or ours), `cites` what else it rests on.

    `inferred`: the figure or the reading is ours, not the source's.
    """

    id: str = Field(min_length=1, max_length=40)
    cites: tuple[str, ...] = ()
    inferred: bool = False
    note: str | None = None

    @property
    def rule_ids(self) -> tuple[str, ...]:
        """What a decision by this rule cites."""
        return (self.id, *self.cites)
