"""Waiting for the end of an execution, for requests in sync mode. Holds no thread meanwhile."""

import time
from uuid import UUID

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from celeriac.api.auth import still_allowed
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import DatabaseUnavailableError, UnauthenticatedError
from celeriac.domain.execution import Execution
from celeriac.domain.retry import backoff
from celeriac.domain.task import TaskSpec
from celeriac.wiring import Container, Desk

MAX_WAIT_SECONDS = 3600.0
_CHECK_SECONDS = 1.0
"""So often it is looked whether the caller is still there, and whether the time is up."""


def longest_wait(task: TaskSpec) -> float:
    """Return the seconds after which a task's execution should have ended, retries included."""
    pauses = (backoff(task.retry, number, 1.0) for number in range(task.retry.max_retries))
    return min(
        task.limits.hard_seconds * (task.retry.max_retries + 1) + sum(pauses), MAX_WAIT_SECONDS
    )


async def until_terminal(
    request: Request,
    shared: Container,
    desk: Desk,
    actor: Actor,
    execution_id: UUID,
    *,
    seconds: float,
) -> Execution | None:
    """Return the execution when it has ended, or as it is after `seconds`.

    None where the caller has gone, or the database was away when the time was up. Raises
    UnauthenticatedError when the caller's key isn't good any more.
    """
    deadline = time.monotonic() + seconds
    found: Execution | None = None
    watching = shared.watcher.changes(
        execution_id,
        position=lambda: -1 if found is None else found.event_seq,
        idle_seconds=_CHECK_SECONDS,
    )
    async with watching as changes:
        async for change in changes:
            if not await still_allowed(request):
                raise UnauthenticatedError("The API key is not good any more; make a new one.")
            if change.delta is None and not change.idle:
                try:
                    found = await run_in_threadpool(desk.queries.execution, actor, execution_id)
                except DatabaseUnavailableError:
                    found = None  # it is stored: waiting on is better than failing
            if found is not None and found.status.terminal:
                return found
            if time.monotonic() > deadline or await request.is_disconnected():
                return found
    return found
