"""Dispatch elements: what a ticket must say so that a branch can act, and how the text shows that it does."""

from collections.abc import Callable
from functools import cached_property

from pydantic import model_validator

from shared.policy.parts import Code, Label, Part, Pattern, compiled


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

    @model_validator(mode="after")
    def _patterns_fit_together(self) -> "ElementSpec":
        _ = (self.found_in, self.refused_in)
        return self

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
    return compiled("|".join(f"(?:{pattern})" for pattern in patterns)).search
