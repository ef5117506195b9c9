"""Starts what a schedule names, in the transaction of its fire."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from celeriac.db.engine import Connection
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.triggers import TriggerType
from celeriac.kit.json_types import JsonObject
from celeriac.services.executions.submit import Submit
from celeriac.services.workflows.runs import Runs, StartRequest

REFUSED = (ConflictError, ForbiddenError, InvalidInputError, NotFoundError)
"""Errors of the task, the workflow or their input: the same request fails again."""


@dataclass(frozen=True, slots=True)
class Start:
    """An execution or run that is checked, and not stored yet."""

    store: Callable[[Connection], None]
    begin: Callable[[], None]
    """Works on a run at once, after the commit. Without it the keeper does, within a second."""
    execution_id: UUID | None = None
    run_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What a schedule starts."""

    task_id: UUID | None
    workflow_id: UUID | None
    input: JsonObject


class Starter:
    """Checks and stores executions and runs of schedules. Safe to share between threads."""

    def __init__(self, submit: Submit, runs: Runs) -> None:
        self._submit = submit
        self._runs = runs

    def prepare(self, actor: Actor, target: Target, *, fresh: bool = False) -> Start:
        """Return a start of the current version. Raises one of `REFUSED`.

        `store` raises LimitReachedError, and StaleSpecError if the task was changed meanwhile;
        with `fresh` its specification is not taken from the cache.
        """
        if target.task_id is not None:
            request = SubmitRequest(
                task_id=target.task_id,
                variables=target.input,
                trigger_type=TriggerType.SCHEDULED,
            )
            new = self._submit.prepare(actor, request, fresh=fresh)
            return Start(
                lambda connection: self._submit.add(connection, actor, new),
                lambda: None,
                execution_id=new.ids[0],
            )
        if target.workflow_id is None:
            raise ValueError("a schedule starts a task or a workflow")
        run = self._runs.prepare(
            actor,
            StartRequest(target.workflow_id, target.input, trigger_type=TriggerType.SCHEDULED),
        )
        return Start(
            lambda connection: self._runs.add(connection, actor, run),
            lambda: self._runs.begin(run),
            run_id=run.run_id,
        )
