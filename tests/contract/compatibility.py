"""Whether a new schema still reads what was written under an old one.

Allowed: a new optional field, a new type, a looser bound. Not allowed: a field or a type that is gone, another type of
a field, a new required field, a value that is no longer accepted, a tighter bound.
"""

from collections.abc import Mapping
from typing import Any

from shared.contracts.registry import MODELS

Schema = Mapping[str, Any]

UPPER = ("maxLength", "maxItems", "maximum", "exclusiveMaximum")
LOWER = ("minLength", "minItems", "minimum", "exclusiveMinimum")


def current_schemas() -> dict[str, Any]:
    """The JSON schema of each type's data, as a reader checks it."""
    return {name: bare(model.model_json_schema(mode="validation")) for name, model in sorted(MODELS.items())}


def bare(schema: Any) -> Any:
    """A schema or document without the words for people."""
    if isinstance(schema, list):
        return [bare(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    named = ("properties", "$defs")
    return {
        word: {name: bare(part) for name, part in value.items()} if word in named else bare(value)
        for word, value in schema.items()
        if word not in ("title", "description", "summary", "examples")
    }


def breaking_changes(old: Mapping[str, Schema], new: Mapping[str, Schema]) -> list[str]:
    """What would break readers or records of the old schemas; empty when nothing would."""
    found: list[str] = []
    for name, schema in old.items():
        if name in new:
            found += compare(schema, new[name], schema, new[name], name)
        else:
            found.append(f"{name}: the type is gone")
    return found


def compare(old: Schema, new: Schema, old_root: Schema, new_root: Schema, place: str) -> list[str]:
    """What was valid by `old` and is not by `new`. References are looked up in `$defs` of the roots."""
    found: list[str] = []
    candidates = _alternatives(new, new_root)
    for alternative in _alternatives(old, old_root):
        attempts = [_compare_one(alternative, one, old_root, new_root, place) for one in candidates]
        found += min((len(attempt), attempt) for attempt in attempts)[1]
    return found


def _alternatives(schema: Schema, root: Schema) -> list[Schema]:
    if "$ref" in schema:
        return _alternatives(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return [one for part in schema["anyOf"] for one in _alternatives(part, root)]
    return [schema]


def _compare_one(old: Schema, new: Schema, old_root: Schema, new_root: Schema, place: str) -> list[str]:
    old_type, new_type = old.get("type"), new.get("type")
    if new_type not in (None, old_type) and (old_type, new_type) != ("integer", "number"):
        return [f"{place}: was {old_type}, is {new_type}"]
    found = [f"{place}: {text}" for text in _bounds(old, new)]
    if "properties" in old:
        found += _fields(old, new, old_root, new_root, place)
    for word in ("items", "additionalProperties"):
        before, after = old.get(word), new.get(word)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += compare(before, after, old_root, new_root, f"{place}[]")
        elif after is False and before is not False:
            found.append(f"{place}: unknown fields are refused now")
    return found


def _fields(old: Schema, new: Schema, old_root: Schema, new_root: Schema, place: str) -> list[str]:
    before, after = old["properties"], new.get("properties", {})
    found = [f"{place}.{name}: the field is gone" for name in before if name not in after]
    newly_required = set(new.get("required", ())) - set(old.get("required", ()))
    found += [f"{place}.{name}: required now" for name in sorted(newly_required)]
    for name in before:
        if name in after:
            found += compare(before[name], after[name], old_root, new_root, f"{place}.{name}")
    return found


def _bounds(old: Schema, new: Schema) -> list[str]:
    found: list[str] = []
    old_values = old.get("enum", [old["const"]] if "const" in old else None)
    new_values = new.get("enum", [new["const"]] if "const" in new else None)
    if new_values is not None:
        gone = "every other value" if old_values is None else [value for value in old_values if value not in new_values]
        if gone:
            found.append(f"no longer accepted: {gone}")
    found += [f"{word} is tighter" for word in UPPER if word in new and (word not in old or new[word] < old[word])]
    found += [f"{word} is tighter" for word in LOWER if word in new and (word not in old or new[word] > old[word])]
    found += [f"{word} changed" for word in ("pattern", "format") if word in new and new[word] != old.get(word)]
    return found
