"""Limits of runs: their keys, and what they show (pure).

A run has a slot of each of its keys while it runs. It gets all of them at once, or none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from celeriac.domain.limit_policies import LimitPolicy
from celeriac.domain.limits import KeyedLimit, LimitCount, key_of, strictest
from celeriac.domain.workflows.model import Limit
from celeriac.kit.json_types import JsonObject, JsonValue


class SlotState(StrEnum):
    """What a run has of a limit."""

    WAITING = "waiting"
    """It needs a slot to begin, or to go on."""
    HELD = "held"
    """It has a slot."""
    GIVEN_BACK = "given_back"
    """It has given its slot back while it waits for an approval or another run."""


def keys_of(limits: Sequence[Limit], given: JsonObject, run: JsonObject) -> list[KeyedLimit]:
    """Return the limits of a run with the keys for its input, and for what it is (`run`).

    Of limits with the same key the smallest counts. Raises InputInvalidError for a key that can't
    be computed, is no text or number, or is too long.
    """
    scope: Mapping[str, JsonValue] = {"input": given, "run": run}
    return strictest(
        [
            KeyedLimit(
                key_of(each.key, scope, f"limits.{index}.key"), each.max, each.policy, each.count
            )
            for index, each in enumerate(limits)
        ]
    )


@dataclass(frozen=True, slots=True)
class RunLimit:
    """A limit of a run that has not ended, and who has its slots."""

    key: str
    max: int
    policy: LimitPolicy
    count: LimitCount
    state: SlotState
    used: int
    """How many runs have a slot, counted up to `max`."""
    holders: Sequence[UUID]
    """The oldest of them, five at most."""
