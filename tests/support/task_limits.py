"""A task with limits by key: its executions are submitted, claimed, ended and kept."""

from collections.abc import Sequence
from uuid import UUID

from celeriac.domain.executions.model import (
    Claim,
    Completed,
    SubmitRequest,
)
from celeriac.domain.executions.states import Held, Status
from celeriac.domain.tasks import TaskSpec
from celeriac.kit.json_types import JsonObject
from tests.support.core import LIMIT, Core

KEY = "variables.key"


def limited(core: Core, *concurrency: JsonObject) -> Core:
    """Return the core with a task that has these limits."""
    spec = TaskSpec.model_validate({"concurrency": list(concurrency)})
    return Core(core.database, spec)


def one_per_key(core: Core, policy: str = "queue", most: int = 1) -> Core:
    """Return the core with a task of which `most` of a key run."""
    return limited(core, {"key": KEY, "max": most, "policy": policy})


def submit(core: Core, key: str = "a", **variables: str) -> UUID:
    """Submit an execution with a key."""
    request = SubmitRequest(task_id=core.task, variables={"key": key, **variables})
    return core.submit(core.actor, request).execution_id


def batch(core: Core, keys: Sequence[str]) -> Sequence[UUID]:
    """Submit executions with these keys."""
    return core.pending_many([{"key": key} for key in keys])


def start(core: Core, execution_id: UUID) -> Claim:
    """Send and claim an execution that has its slots."""
    core.dispatch.send_due()
    claim = core.claim(core.message(execution_id))
    assert claim is not None, "it has no slot"
    return claim


def end(core: Core, claim: Claim) -> None:
    """Complete an attempt as a worker does."""
    core.end(claim, Completed(1))
    core.limits.of_keys(claim.workspace_id, claim.limit_keys or ())


def keep(core: Core) -> None:
    """Do what the keeper does twice a second."""
    core.dispatch.release_due()
    core.limits.some(LIMIT)
    core.dispatch.send_due()


def waits(core: Core, execution_id: UUID) -> bool:
    """Whether an execution waits for a slot."""
    found = core.get(execution_id)
    return (found.status, found.held) == (Status.PENDING, Held.LIMIT)
