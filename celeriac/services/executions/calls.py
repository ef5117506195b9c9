"""Celery tasks that stand for executions: started, ended with them, and revoked.

The task's function stores the executions and returns without a result, so that no slot of a worker
is held. What Celery needs to end the task is stored in the same transaction. When the last of the
executions has ended, the process that ended it, or the keeper, ends the task: with their result or
error, as Celery does, so that chains, groups, chords and callbacks go on
(docs/adr/0043-celerys-own-canvas.md).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from uuid import UUID

import structlog

from celeriac.db import accounts, workspaces
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import calls
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import CeleryCallError, ForbiddenError
from celeriac.domain.executions.calls import (
    Arguments,
    Call,
    CallOutcome,
    NewCall,
    Raised,
    Returned,
    batch_result,
    outcome_of,
    too_large,
)
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.steps import MAX_RESULTS_BYTES
from celeriac.domain.executions.triggers import TriggerType
from celeriac.kit.backoff import grown
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.executions.stop import Cancel
from celeriac.services.executions.submit import Submit
from celeriac.services.ports import CallEnding

logger = structlog.get_logger(__name__)

_IDENTITY_SECONDS = 5.0
"""How long the user is cached, and a change of their role takes to apply."""

_TAKEN_SECONDS = 60.0
"""After this long another process may end a Celery task that one has taken."""

_AT_ONCE = 10
_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 60.0
MOST_FAULTS = 8
"""The tries of a Celery task whose callbacks can't be sent."""

_PAGE = 500
_REVOKED_BY = "celery revoke"


class CallIdentity:
    """The user whose executions Celery tasks start. Safe to share between threads."""

    def __init__(self, database: Database, *, user: str | None, workspace: str | None) -> None:
        """Use the `workspace` of `user`, both by name; None is the personal workspace."""
        self._database = database
        self._user = user
        self._workspace = workspace
        self._known: tuple[Actor, float] | None = None

    def actor(self, request_id: str) -> Actor:
        """Return the actor. Raises ForbiddenError saying what is missing."""
        known = self._known
        if known is None or known[1] < time.monotonic():
            with self._database.autocommit() as connection:
                known = self._look_up(connection), time.monotonic() + _IDENTITY_SECONDS
            self._known = known
        return replace(known[0], request_id=request_id)

    def _look_up(self, connection: Connection) -> Actor:
        if self._user is None:
            raise ForbiddenError(
                "Celery tasks may not start executions here: set CELERIAC_CALLS_USER to the user "
                "whose executions they are, for every worker."
            )
        user = accounts.user_named(connection, self._user)
        if user is None or user.disabled_at is not None:
            raise ForbiddenError(
                f"CELERIAC_CALLS_USER is {self._user!r}, but there is no such active user."
            )
        workspace_id: UUID | None = user.workspace_id
        if self._workspace is not None:
            workspace = workspaces.find_one(connection, self._workspace)
            workspace_id = None if workspace is None else workspace.id
        member = workspace_id and workspaces.member(connection, workspace_id, user.id)
        if not member:
            raise ForbiddenError(
                f"The user {self._user!r} of CELERIAC_CALLS_USER is no member of the workspace "
                f"{self._workspace!r} of CELERIAC_CALLS_WORKSPACE."
            )
        actor = Actor(user.id, user.name, member.role, member.workspace_id)
        actor.require(Role.OPERATOR)
        return actor


StartRun = Callable[[Actor, NewCall, Arguments], UUID]
"""Starts a run of a workflow for a Celery task, once; returns its id."""

CancelRun = Callable[[Actor, UUID], object]


class StartCalls:
    """Starts the executions of Celery tasks. Safe to share between threads."""

    def __init__(
        self,
        database: Database,
        tasks: Tasks,
        submit: Submit,
        dispatch: Dispatch,
        identity: CallIdentity,
        *,
        start_run: StartRun,
    ) -> None:
        self._database = database
        self._tasks = tasks
        self._submit = submit
        self._dispatch = dispatch
        self._identity = identity
        self._start_run = start_run

    def is_known(self, celery_task_id: str) -> bool:
        """Whether the executions of this Celery task were started."""
        with self._database.autocommit() as connection:
            return calls.find(connection, celery_task_id) is not None

    def execution(self, call: NewCall, arguments: Arguments) -> None:
        """Start one execution; nothing if that was done for the Celery task before.

        Raises ForbiddenError, and what submitting raises; nothing is stored then.
        """
        actor = self._identity.actor(call.celery_task_id)
        (variables,) = arguments.variables
        done = self._tasks.use(
            actor,
            arguments.name,
            lambda task_id: self._submit(
                actor, replace(_request(task_id, call, arguments), variables=variables)
            ),
        )
        logger.info(
            "celery_call.started",
            celery_task_id=call.celery_task_id,
            execution_id=done.execution_id,
            created=done.created,
        )

    def workflow(self, call: NewCall, arguments: Arguments) -> None:
        """Start a run of a workflow in the same way."""
        run_id = self._start_run(self._identity.actor(call.celery_task_id), call, arguments)
        logger.info("celery_call.started", celery_task_id=call.celery_task_id, run_id=run_id)

    def batch(self, call: NewCall, arguments: Arguments) -> CallOutcome | None:
        """Start one execution for each of the variables, all or none, in the same way.

        Without variables nothing is started, and how the Celery task ends is returned.
        """
        actor = self._identity.actor(call.celery_task_id)
        if not arguments.variables:
            return Returned(batch_result(None, ()))
        done = self._tasks.use(
            actor,
            arguments.name,
            lambda task_id: self._submit.batch(
                actor, _request(task_id, call, arguments), arguments.variables
            ),
        )
        logger.info(
            "celery_call.started",
            celery_task_id=call.celery_task_id,
            batch_id=done.batch_id,
            created=done.created,
        )
        if done.created:
            self._dispatch.send_eligible()
        return None


def _request(task_id: UUID, call: NewCall, arguments: Arguments) -> SubmitRequest:
    return SubmitRequest(
        task_id=task_id,
        priority=arguments.priority,
        queue=arguments.queue,
        trigger_type=TriggerType.CELERY,
        call=call,
        expires_at=call.expires_at,
    )


class EndCalls:
    """Ends Celery tasks whose executions have ended. Safe to share between threads."""

    def __init__(self, database: Database, ending: CallEnding) -> None:
        self._database = database
        self._ending = ending

    def __call__(self) -> int:
        """End some of those that are due; return how many were tried.

        One that can't be ended, because the broker or the result backend is unavailable, is tried
        again after a growing pause. Raises DatabaseUnavailableError.
        """
        with self._database.autocommit() as connection:
            due = calls.take_due(connection, limit=_AT_ONCE, seconds=_TAKEN_SECONDS)
        for call in due:
            self._end(call)
        return len(due)

    def _end(self, call: Call) -> None:
        with self._database.autocommit() as connection:
            ended = calls.executions(connection, call, most_bytes=MAX_RESULTS_BYTES)
        outcome = too_large(call) if ended is None else outcome_of(call, ended)
        try:
            self._ending.end(call, outcome)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
            if isinstance(error, CeleryCallError) and call.tries >= MOST_FAULTS:
                self._give_up(call, error)
                return
            pause = grown(_FIRST_RETRY_SECONDS, call.tries, _LONGEST_RETRY_SECONDS)
            logger.warning(
                "celery_call.not_ended",
                celery_task_id=call.celery_task_id,
                tries=call.tries,
                error=f"{type(error).__name__}: {error}",
                retry_seconds=pause,
            )
            with self._database.autocommit() as connection:
                calls.postpone(connection, call, seconds=pause)
            return
        with self._database.autocommit() as connection:
            calls.mark_ended(connection, call)
        logger.info(
            "celery_call.ended",
            celery_task_id=call.celery_task_id,
            outcome=type(outcome).__name__.lower(),
        )

    def _give_up(self, call: Call, error: CeleryCallError) -> None:
        """Fail a Celery task whose callbacks can't be sent; each try may send some of them."""
        logger.error("celery_call.given_up", celery_task_id=call.celery_task_id, error=str(error))
        failed = Raised(f"celery_call: What follows this task can't be sent: {error}")
        try:
            self._ending.end(call, failed)
        except CeleryCallError:
            logger.exception("celery_call.no_result", celery_task_id=call.celery_task_id)
        with self._database.autocommit() as connection:
            calls.mark_ended(connection, call)

    def keep(self, *, older_than: float) -> int:
        """Prolong what the result backend has of tasks that run for longer; return how many.

        Otherwise it would forget a chord before its last execution has ended.
        """
        after, total = "", 0
        while True:
            with self._database.autocommit() as connection:
                page = calls.find_open(connection, older_than=older_than, after=after, limit=_PAGE)
            if not page:
                return total
            self._ending.keep(page)
            after, total = page[-1].celery_task_id, total + len(page)


class RevokeCalls:
    """Cancels the executions and workflow runs of revoked Celery tasks."""

    def __init__(self, database: Database, cancel: Cancel, cancel_run: CancelRun) -> None:
        self._database = database
        self._cancel = cancel
        self._cancel_run = cancel_run

    def stamped(self, stamps: Mapping[str, Sequence[str]]) -> int:
        """Cancel what tasks with any of these stamps have started; return how much that was."""
        with self._database.autocommit() as connection:
            found = calls.stamped(connection, stamps)
        return self(found) if found else 0

    def __call__(self, celery_task_ids: Sequence[str]) -> int:
        """Cancel what these tasks have started and has not ended; return how much that was."""
        with self._database.autocommit() as connection:
            executions = calls.open_executions(connection, celery_task_ids)
            runs = calls.open_runs(connection, celery_task_ids)
        count = 0
        for each in executions:
            count += len(self._cancel.those(_revoker(each), each.ids))
        for each in runs:
            for run_id in each.ids:
                self._cancel_run(_revoker(each), run_id)
                count += 1
        return count


def _revoker(found: calls.OpenExecutions) -> Actor:
    return Actor(found.owner_id, _REVOKED_BY, Role.OPERATOR, found.workspace_id)
