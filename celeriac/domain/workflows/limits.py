"""Limits of runs: their keys, and what they show (pure).

A run has a slot of each of its keys while it runs. It gets all of them at once, or none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from celeriac.domain.errors import InputInvalidError
from celeriac.domain.limit_policies import LimitCount, LimitPolicy
from celeriac.domain.limits import LIMIT_PREFIX, KeyedLimit, key_of, strictest
from celeriac.domain.workflows.model import Limit
from celeriac.domain.workspace_limits import WorkspaceLimit, workspace_limits
from celeriac.kit.json_types import JsonObject, JsonValue


class SlotState(StrEnum):
    """What a run has of a limit."""

    WAITING = "waiting"
    """It needs a slot to begin, or to go on."""
    HELD = "held"
    """It has a slot."""
    GIVEN_BACK = "given_back"
    """It has given its slot back while it waits for an approval or another run."""


def keys_of(
    limits: Sequence[Limit],
    others: Sequence[WorkspaceLimit],
    given: JsonObject,
    run: JsonObject,
    *,
    workflow_id: UUID,
) -> list[KeyedLimit]:
    """Return the limits of a run with the keys for its input, and for what it is (`run`).

    `limits` are those of its document: of these with the same key the smallest counts. `others` are
    those of the workspace that are about runs of the workflow. Raises InputInvalidError for a key
    that can't be computed, is no text or number, or is too long.
    """
    if not limits and not others:
        return []
    scope: Mapping[str, JsonValue] = {"input": given, "run": run}
    own = [
        KeyedLimit(_key(each, scope, f"limits.{index}.key"), each.max, each.policy, each.count)
        for index, each in enumerate(limits)
    ]
    found = [*strictest(own), *workspace_limits(others, scope, workflow_id=workflow_id)]
    return sorted(found, key=lambda each: each.key)


def _key(limit: Limit, scope: Mapping[str, JsonValue], field: str) -> str:
    key = key_of(limit.key, scope, field)
    if key.startswith(LIMIT_PREFIX):
        raise InputInvalidError(
            f"The key of a limit must not begin with {LIMIT_PREFIX}: those of limits of the "
            "workspace do.",
            field=field,
        )
    return key


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
    limit_id: UUID | None = None
    """Of a limit of the workspace."""
    name: str | None = None
    """Its name."""
