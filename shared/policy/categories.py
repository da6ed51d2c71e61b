"""The category tree: written as a tree in the pack, used as a flat table of dotted codes."""

from collections.abc import Iterable, Iterator

from shared.policy.conditions import When
from shared.policy.parts import Code, Label, Part


class CategoryNode(Part):
    """One node as written. What is left out is inherited from the parent; labels and `original_path` are not."""

    code: Code
    label: Label
    original_path: str | None = None
    """The path as the handbook prints it, kept for exchange with the old system (8.3 no. 24)."""
    elements: tuple[str, ...] | None = None
    unit: str | None = None
    business_matter: bool | None = None
    international: bool | None = None
    allowed_when: When | None = None
    children: tuple["CategoryNode", ...] = ()


class Category(Part):
    """One category with everything inherited. `code` is the dotted path."""

    code: str
    label: Label
    path_label: Label
    original_path: str | None
    elements: tuple[str, ...]
    unit: str | None
    business_matter: bool
    international: bool
    allowed_when: When | None
    leaf: bool


def flatten(nodes: Iterable[CategoryNode], parent: Category | None = None) -> Iterator[Category]:
    for node in nodes:
        above = parent.path_label if parent else None
        category = Category(
            code=f"{parent.code}.{node.code}" if parent else node.code,
            label=node.label,
            path_label=Label(
                zh=f"{above.zh}→{node.label.zh}" if above else node.label.zh,
                en=f"{above.en} > {node.label.en}" if above else node.label.en,
            ),
            original_path=node.original_path,
            elements=node.elements if node.elements is not None else (parent.elements if parent else ()),
            unit=node.unit or (parent.unit if parent else None),
            business_matter=_or(node.business_matter, parent.business_matter if parent else False),
            international=_or(node.international, parent.international if parent else False),
            allowed_when=node.allowed_when or (parent.allowed_when if parent else None),
            leaf=not node.children,
        )
        yield category
        yield from flatten(node.children, category)


def _or(own: bool | None, inherited: bool) -> bool:
    return inherited if own is None else own
