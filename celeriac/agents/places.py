"""The places of durable calls: the numbers of the call in its function, `3`, and what encloses it.

A call in a branch of `ctx.gather` has the number of the gather, of the branch (from 1), and of the
call in the branch: `3.2.1`. A call in the function of a step has a 0 for the branch: `3.0.1`.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum


class Encloses(StrEnum):
    """What has other calls in it."""

    GATHER = "a gather"
    STEP = "a step"


def key_of(path: str | None, name: str) -> str:
    """Return what identifies a call: its place, or without one its name."""
    return f":{name}" if path is None else path


def enclosing(path: str) -> Iterator[tuple[str, Encloses]]:
    """Yield the places in which a place is, the outermost first, and what each of them is."""
    numbers = path.split(".")
    for level in range(1, len(numbers) - 1, 2):
        kind = Encloses.STEP if numbers[level] == "0" else Encloses.GATHER
        yield ".".join(numbers[:level]), kind


def all_enclosing(paths: Iterable[str | None]) -> dict[str, Encloses]:
    """Return all places in which others are, and what each of them is."""
    return {place: kind for path in paths if path for place, kind in enclosing(path)}


def is_behind(later: str | None, path: str | None) -> bool:
    """Whether the call at `later` comes after the one at `path`, or after what encloses that."""
    if later is None or path is None:
        return False
    a, b = path.split("."), later.split(".")
    return any(
        a[:level] == b[:level] and len(b) > level and int(b[level]) > int(a[level])
        for level in range(0, len(a), 2)
    )
