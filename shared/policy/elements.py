"""Dispatch elements: what a ticket must say so that a branch can act, and how the text shows that it does."""

import re
from collections.abc import Callable
from functools import cached_property
from typing import Annotated

from pydantic import AfterValidator

from shared.policy.parts import Code, Label, Part


def _compiles(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


Pattern = Annotated[str, AfterValidator(_compiles)]


class ElementSpec(Part):
    """One element. It is never a ground for a return unless it `changes_handling` (DET-24)."""

    code: Code
    label: Label
    changes_handling: bool = True
    values: tuple[str, ...] = ()
    """The closed list of values, where there is one."""
    is_city: bool = False
    given_in_text: tuple[Pattern, ...] = ()
    cannot_be_given: tuple[Pattern, ...] = ()
    cites: tuple[str, ...] = ()

    @cached_property
    def found_in(self) -> Callable[[str], object]:
        return _searcher(self.given_in_text)

    @cached_property
    def refused_in(self) -> Callable[[str], object]:
        return _searcher(self.cannot_be_given)


def _searcher(patterns: tuple[str, ...]) -> Callable[[str], object]:
    """One search over all patterns; a text that matches gives something true."""
    if not patterns:
        return lambda text: None
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns)).search
