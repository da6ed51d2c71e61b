"""Taking a customer's texts out of events, rows and answers: the fields that the contracts mark as `ERASABLE`."""

from collections.abc import Iterator
from typing import Any, TypeVar, get_args

from shared.contracts.ticket import Contract, Erasable

C = TypeVar("C", bound=Contract)


def without_texts(model: type[Contract], data: dict[str, Any]) -> dict[str, Any]:
    """`data`, which is a model's dump or a part of one, without what is marked: a field that must be there is empty."""
    kept = dict(data)
    for name in data.keys() & model.model_fields.keys():
        field = model.model_fields[name]
        if any(isinstance(mark, Erasable) for mark in field.metadata):
            kept.pop(name)
            if field.is_required():
                kept[name] = ""
        elif (inner := next(_contracts(field.annotation), None)) is not None:
            kept[name] = _within(inner, data[name])
    if "erased" in model.model_fields:
        kept["erased"] = True
    return kept


def blank(event: C) -> C:
    """The same without what is marked."""
    return type(event).model_validate(without_texts(type(event), event.model_dump(mode="json")))


def _within(model: type[Contract], value: Any) -> Any:
    if isinstance(value, dict):
        return without_texts(model, value)
    if isinstance(value, list | tuple):
        return [_within(model, each) for each in value]
    return value


def _contracts(annotation: Any) -> Iterator[type[Contract]]:
    """The contract model that a field holds, alone, optional or in a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, Contract):
        yield annotation
    for inner in get_args(annotation):
        yield from _contracts(inner)
