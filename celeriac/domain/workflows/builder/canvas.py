"""Celery's words for the order of steps: chain, group and chord.

They set what the steps of a workflow need. Results are passed by references, not by position.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Union

from celeriac.domain.workflows.builder.steps import BuiltStep


@dataclass(frozen=True, slots=True)
class Group:
    """Steps with an order: those that begin, and those that end last."""

    first: tuple[BuiltStep, ...]
    last: tuple[BuiltStep, ...]


Part = Union[BuiltStep, Group, Sequence["Part"]]  # noqa: UP007 - recursive


def chain(*parts: Part) -> Group:
    """Run parts one after the other: each needs the one before. Raises TypeError if empty."""
    groups = [_group(part) for part in parts]
    if not groups:
        raise TypeError("a chain needs at least one step")
    for earlier, later in pairwise(groups):
        for step in later.first:
            step.after(*earlier.last)
    return Group(groups[0].first, groups[-1].last)


def group(*parts: Part) -> Group:
    """Run parts at the same time: nothing is between them."""
    groups = [_group(part) for part in parts]
    return Group(
        tuple(step for each in groups for step in each.first),
        tuple(step for each in groups for step in each.last),
    )


def chord(header: Part, body: Part) -> Group:
    """Run a body after all parts of a header."""
    return chain(header, body)


def _group(part: Part) -> Group:
    if isinstance(part, Group):
        return part
    if isinstance(part, BuiltStep):
        return Group((part,), (part,))
    return group(*part)
