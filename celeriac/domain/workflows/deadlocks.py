"""Runs that wait for each other's slots, none of which can continue (pure).

A run may keep the slot of a key until it ends (`count: active`), while runs below it wait for slots
of other keys. If all who have these wait in the same way, for slots of the first, none continues.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from uuid import UUID

from celeriac.domain.limits import Ending, LimitEnd

Key = tuple[UUID, str]
"""The key of a limit in a workspace."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A run that keeps slots until it ends, with the live runs below it."""

    waiting: Mapping[UUID, Mapping[Key, int]]
    """The runs that wait for slots, itself included: the `max` of each key that they wait for."""
    goes_on: bool
    """Whether one of the runs works, or waits for something else."""


@dataclass(frozen=True, slots=True)
class Deadlock:
    """The run that is ended, so that others continue, and the key for which it waits."""

    ending: Ending
    key: str


def find_deadlock(
    holders: Mapping[Key, Collection[UUID]], trees: Mapping[UUID, Tree]
) -> Deadlock | None:
    """Return the youngest of the runs that wait for each other, or None if all can continue.

    `holders` has the runs that keep the slot of a key until they end, and `trees` these runs.
    """
    stuck = frozenset(each for each, tree in trees.items() if tree.waiting and not tree.goes_on)
    while True:
        left = frozenset(
            run_id
            for run_id in stuck
            if all(_blocked(keys, holders, stuck) for keys in trees[run_id].waiting.values())
        )
        if left == stuck:
            break
        stuck = left
    if not stuck:
        return None
    return max(_cycle(holders, trees, stuck), key=lambda each: each.ending.id)


def _blocked(
    keys: Mapping[Key, int], holders: Mapping[Key, Collection[UUID]], stuck: frozenset[UUID]
) -> Key | None:
    """Return the first key of which no slot becomes free while the runs `stuck` don't end."""
    for key, most in sorted(keys.items()):
        if len(stuck.intersection(holders.get(key, ()))) >= most:
            return key
    return None


def _cycle(
    holders: Mapping[Key, Collection[UUID]], trees: Mapping[UUID, Tree], stuck: frozenset[UUID]
) -> list[Deadlock]:
    """Return runs of which each waits for a slot that is kept above the next one."""
    path: list[Deadlock] = []
    seen: dict[UUID, int] = {}
    holder = min(stuck)
    while holder not in seen:
        seen[holder] = len(path)
        run_id, keys = max(trees[holder].waiting.items())
        key = _blocked(keys, holders, stuck)
        assert key is not None, "all that wait below a run that is stuck are blocked"
        holder = min(stuck.intersection(holders[key]))
        path.append(Deadlock(Ending(run_id, LimitEnd.DEADLOCK, holder), key[1]))
    return path[seen[holder] :]
