"""The OpenAPI documents of the services, and whether a new one still serves the callers of an old one.

Allowed: a new route, a new optional parameter or field, a looser bound, one more field in an answer. Not allowed: a
route that is gone, a request that was good and is refused now, an answer that lacks what callers read, or holds values
that they do not know.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.architecture.services import SERVICES, built
from tests.contract.compatibility import bare, compare

Document = dict[str, Any]
Roots = tuple[Document, Document]

# An answer may grow: whoever reads it ignores what is new.
GROWN = ": the field is gone"


def current_documents() -> dict[str, Document]:
    with TemporaryDirectory() as folder:
        return {service: bare(built(service, Path(folder)).app.openapi()) for service in SERVICES}


def breaking_routes(old: Document, new: Document) -> list[str]:
    """What would break callers of the old document; empty when nothing would."""
    roots = {"$defs": old["components"]["schemas"]}, {"$defs": new["components"]["schemas"]}
    found: list[str] = []
    for place, before in _operations(old):
        method, path = place.split(" ")
        after = new["paths"].get(path, {}).get(method)
        if after is None:
            found.append(f"{place}: the route is gone")
            continue
        found += _parameters(place, before, after, roots)
        found += _requests(place, before, after, roots)
        found += _answers(place, before, after, roots)
    return found


def _operations(document: Document) -> Iterator[tuple[str, Document]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def _parameters(place: str, before: Document, after: Document, roots: Roots) -> list[str]:
    olds, news = (
        {(one["in"], one["name"]): one for one in operation.get("parameters", [])} for operation in (before, after)
    )
    found = [f"{place} ?{name}: the parameter is gone" for kind, name in olds if (kind, name) not in news]
    for key, parameter in news.items():
        if key in olds:
            found += compare(olds[key]["schema"], parameter["schema"], *roots, f"{place} ?{key[1]}")
        if parameter.get("required") and not olds.get(key, {}).get("required"):
            found.append(f"{place} ?{key[1]}: required now")
    return found


def _requests(place: str, before: Document, after: Document, roots: Roots) -> list[str]:
    old, new = (operation.get("requestBody", {}) for operation in (before, after))
    if new.get("required") and not old.get("required"):
        return [f"{place}: a body is required now"]
    found: list[str] = []
    for media, content in old.get("content", {}).items():
        if media not in new.get("content", {}):
            found.append(f"{place}: {media} is no longer taken")
        else:
            found += compare(content.get("schema", {}), new["content"][media].get("schema", {}), *roots, place)
    return found


def _answers(place: str, before: Document, after: Document, roots: Roots) -> list[str]:
    """An answer is written by the new form and read by the old one."""
    found: list[str] = []
    for status, old in before["responses"].items():
        new = after["responses"].get(status)
        if new is None:
            if status.startswith("2"):
                found.append(f"{place} {status}: no longer answered")
            continue
        for media, content in old.get("content", {}).items():
            if media not in new.get("content", {}):
                found.append(f"{place} {status}: {media} is no longer answered")
                continue
            written = new["content"][media].get("schema", {})
            read = compare(written, content.get("schema", {}), roots[1], roots[0], f"{place} {status}")
            found += [text for text in read if not text.endswith(GROWN)]
    return found
