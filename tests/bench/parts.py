"""All parts of the benchmark, in the order in which a run measures them."""

from tests.bench import (
    accept,
    deadlines,
    detection,
    end_to_end,
    growth,
    hour,
    imports,
    limits,
    memory,
    scale,
    whole_life,
)
from tests.bench.stand import Part

PARTS: tuple[Part, ...] = (
    limits.PART,
    memory.PART,
    whole_life.PART,
    end_to_end.PART,
    imports.PART,
    accept.PART,
    deadlines.PART,
    detection.PART,
    growth.PART,
    hour.PART,
    scale.PART,
)


def chosen(names: str) -> list[Part]:
    """The parts of a comma-separated list; of an empty one, those of a default run. Raises `ValueError`."""
    known = {part.name: part for part in PARTS}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"no part {', '.join(unknown)}; there are {', '.join(known)}")
    return [part for part in PARTS if (part.name in wanted if wanted else part.by_default)]
