"""Celery tasks that stand for executions, for Celery's own chains, groups and chords.

See docs/celery.md. A Celery app of yours may import this module: it reads no settings.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from celery import Task, current_app, shared_task
from celery.exceptions import Ignore, Reject

from celeriac.adapters.celery_calls import ending, mark_started, new_call
from celeriac.domain.errors import CeleriacError, CeleryCallError, UnavailableError
from celeriac.domain.executions.calls import (
    BATCH_PROCESS,
    EXECUTE_AGENT,
    EXECUTE_WORKFLOW,
    Arguments,
    CallOutcome,
    NewCall,
    Returned,
    batch_process_arguments,
    execute_agent_arguments,
    execute_workflow_arguments,
)
from celeriac.domain.tasks import DEFAULT_QUEUE
from celeriac.services.executions.calls import StartCalls
from celeriac.services.retrying import retry_while_unavailable

logger = structlog.get_logger(__name__)

_PATIENCE_SECONDS = 30.0
"""How long a start waits for the database before its message goes back to the queue."""


class CallTask(Task):
    """A task whose message goes to a queue of Celeriac's workers, whatever app sends it."""

    abstract = True

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Send the message; see Celery's `Task.apply_async`."""
        if not {"queue", "routing_key", "exchange"} & {
            name for name, value in options.items() if value is not None
        }:
            options["queue"] = DEFAULT_QUEUE
        return super().apply_async(args, kwargs, **options)


_OPTIONS = {
    "base": CallTask,
    "bind": True,
    "ignore_result": False,
    # the function stores it itself: a second delivery must not overwrite an end
    "track_started": False,
    "throws": (CeleryCallError,),
}


@shared_task(name=EXECUTE_AGENT, **_OPTIONS)
def execute_agent(self: Task, *args: Any, **kwargs: Any) -> Any:
    """Run a task of Celeriac; the result is that of its execution.

    `execute_agent([previous result,] task, variables, previous="input", priority=None, queue=None)`
    """
    return _run(self, partial(execute_agent_arguments, args, kwargs), StartCalls.execution)


@shared_task(name=EXECUTE_WORKFLOW, **_OPTIONS)
def execute_workflow(self: Task, *args: Any, **kwargs: Any) -> Any:
    """Run a workflow; the result is that of its run.

    `execute_workflow([previous result,] workflow, input, previous="input", priority=None)`
    """
    return _run(self, partial(execute_workflow_arguments, args, kwargs), StartCalls.workflow)


@shared_task(name=BATCH_PROCESS, **_OPTIONS)
def batch_process(self: Task, *args: Any, **kwargs: Any) -> Any:
    """Run a task of Celeriac for each item; the result has those of all executions in order.

    `batch_process([previous result,] task, items, previous="input", priority=None, queue=None)`
    """
    return _run(self, partial(batch_process_arguments, args, kwargs), StartCalls.batch)


_Start = Callable[[StartCalls, NewCall, Arguments], CallOutcome | None]


def _run(task: Task, read: Callable[[], Arguments], start: _Start) -> Any:
    """Start what the task stands for, and leave it without a result; or return its result.

    A second delivery of a message changes nothing.
    """
    known = ending.get()
    if known is not None:
        return known.value
    if task.request.called_directly or task.request.is_eager:
        raise CeleryCallError("invalid_input: Send this task to a worker: use delay().")
    starting = current_app.celeriac.process().start_calls
    try:
        outcome = retry_while_unavailable(
            lambda: _once(task, starting, read, start), seconds=_PATIENCE_SECONDS
        )
    except UnavailableError as error:
        raise Reject(error, requeue=True) from error
    except CeleriacError as error:
        raise CeleryCallError(f"{error.code}: {error.message}") from error
    if isinstance(outcome, Returned):
        return outcome.value
    raise Ignore


def _once(
    task: Task, starting: StartCalls, read: Callable[[], Arguments], start: _Start
) -> CallOutcome | None:
    if starting.is_known(task.request.id):
        return None
    arguments = read()
    try:
        call = new_call(task.request)
    except TypeError as error:
        raise CeleryCallError(f"invalid_input: The message can't be stored: {error}.") from error
    _mark_started(task)
    return start(starting, call, arguments)


def _mark_started(task: Task) -> None:
    """Store STARTED before the start: an execution may end before its start has returned."""
    try:
        mark_started(task)
    except Exception as error:  # noqa: BLE001 - the state is only shown
        logger.warning("celery_call.state_not_stored", error=f"{type(error).__name__}: {error}")
