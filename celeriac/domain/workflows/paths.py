"""Paths to steps, also of the runs below a run: `qualify[3]/enrich` (pure)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from celeriac.domain.errors import InvalidInputError
from celeriac.domain.workflows.model import MAX_DEPTH, MAX_ITEMS

MAX_PATH: Final = 600
"""Characters of a path: eight steps, each with an item."""

_PART = re.compile(r"([A-Za-z][A-Za-z0-9_]*)(?:\[([0-9]{1,6}(?:,[0-9]{1,6})*)\])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class StepPath:
    """A step of a run with some of its items, or a step of the run that one of its items is."""

    step: str
    items: tuple[int, ...] = ()
    """From 0, in their order; none: all, or the only one of a step that is no map."""
    below: "StepPath | None" = None
    """The path in the run that the only one of the items is."""

    def __str__(self) -> str:
        """The path as it is written."""
        return self.part + ("" if self.below is None else f"/{self.below}")

    @property
    def part(self) -> str:
        """The first part: the step and its items."""
        return self.step + (f"[{','.join(map(str, self.items))}]" if self.items else "")

    @property
    def item(self) -> int:
        """The only item: that of a step that is no map, or the first of those that are named."""
        return self.items[0] if self.items else 0


def step_path(text: str) -> StepPath:
    """Return the path that is written as `STEP`, `STEP[3]` or `STEP[3]/STEP`.

    The last step may have several items, as in `STEP[3,4]`. Raises InvalidInputError, which names
    the part.
    """
    parts = [_part(text, part) for part in text.split("/")]
    if len(parts) > MAX_DEPTH:
        raise InvalidInputError(
            f"A path has at most {MAX_DEPTH} steps: a run has no more levels below it.",
            field="step",
        )
    for step, items in parts[:-1]:
        if len(items) > 1:
            raise InvalidInputError(
                f"The path names several items of the step {step!r}; only its last step may have "
                "several.",
                field="step",
            )
    path: StepPath | None = None
    for step, items in reversed(parts):
        path = StepPath(step, items, path)
    assert path is not None, "a text has a part"
    return path


def _part(text: str, part: str) -> tuple[str, tuple[int, ...]]:
    found = _PART.fullmatch(part)
    numbers = [] if found is None else [int(each) for each in (found[2] or "").split(",") if each]
    if found is None or any(number >= MAX_ITEMS for number in numbers):
        raise InvalidInputError(
            f"The part {part!r} of the path {text!r} is no step: write STEP, or STEP[3] for an "
            "item of a map, which count from 0, and / before a step of the run that it is.",
            field="step",
        )
    return found[1], tuple(sorted(set(numbers)))


def with_items(path: StepPath, items: Sequence[int]) -> StepPath:
    """Return the path with items of its last step. Raises InvalidInputError if it has some."""
    if path.below is not None:
        return replace(path, below=with_items(path.below, items))
    if path.items and items:
        raise InvalidInputError(
            f"The path ends with {path.part!r}; give the items there, or apart, not both.",
            field="items",
        )
    return replace(path, items=tuple(sorted(set(items)))) if items else path
