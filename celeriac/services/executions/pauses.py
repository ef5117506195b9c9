"""Pauses the system, queues, workers, and what workspaces have, and resumes them.

A pause holds for each statement that begins after its commit: nothing that it is about begins an
attempt. What runs continues, and submissions are accepted (docs/adr/0058). A worker learns of its
pause with its next heartbeat.
"""

from dataclasses import dataclass
from functools import partial
from uuid import UUID

import structlog

from celeriac.db import audit, limits, workers, workspaces
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import pauses as rows
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import ConflictError, InvalidInputError, NotFoundError
from celeriac.domain.executions.pauses import MOST_PAUSES, Pause, PauseScope, PauseTarget
from celeriac.domain.limit_policies import LimitOf
from celeriac.domain.limits import LIMIT_PREFIX
from celeriac.domain.paging import Page
from celeriac.domain.workspace_limits import WorkspaceLimit
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.executions.limits import TaskLimits, admit
from celeriac.services.reading import present, read_page

logger = structlog.get_logger(__name__)

_AT_ONCE = 1_000
"""Rows that one statement sets aside or releases."""

_TURNS = 10
"""How many such statements a pause executes; the keeper does the rest."""

MOST_COUNTED = 10_000
"""Up to how many rows that are still set aside are counted."""

_KEYS_AT_ONCE = 16
"""Keys of which a request gives out slots; the keeper does so for all."""

_OF_SLOTS = frozenset({PauseScope.LIMIT, PauseScope.KEY})
_OF_ALL = frozenset({PauseScope.SYSTEM, PauseScope.QUEUE, PauseScope.WORKER})


@dataclass(frozen=True, slots=True)
class Ended:
    """A pause that has ended, and how many of its rows the keeper still has to release."""

    pause: Pause
    left: int
    """Counted up to 10,000."""


class Pauses:
    """Pauses, and the rows that they hold. Safe to share between threads."""

    def __init__(
        self, database: Database, dispatch: Dispatch, limits: TaskLimits | None = None
    ) -> None:
        """Without `limits` the keeper gives out the slots of what is resumed."""
        self._database = database
        self._dispatch = dispatch
        self._limits = limits

    def pause(self, actor: Actor, target: PauseTarget, reason: str) -> tuple[Pause, bool]:
        """Pause a target; return the pause, and False if it was paused already.

        Then that pause stays as it is, with its reason. The system, queues and workers need an
        administrator; tasks, workflows, limits of tasks and keys an operator; the workspace and
        limits of all of it an admin. The caller has checked that a task or workflow is one of the
        workspace. Raises ForbiddenError, NotFoundError for an unknown worker or limit,
        InvalidInputError for the key of a limit without keys, and ConflictError for too many.
        """
        _require(actor, target.scope)
        workspace_id = None if target.scope in _OF_ALL else actor.workspace_id
        with self._database.transaction() as connection:
            # the workspace before its limit, as who changes or deletes either does
            if workspace_id is not None and not workspaces.lock(connection, workspace_id):
                raise NotFoundError("workspace", workspace_id)
            if target.limit_id is not None:
                _require_limit(connection, actor, target.limit_id, lock=True)
            if target.key is not None:
                _check_key(connection, actor, target.key)
            made = rows.of_target(connection, target, workspace_id=workspace_id) is None
            if made and target.worker is not None and not workers.known(connection, target.worker):
                raise NotFoundError("worker", target.worker)
            if made:
                _check_number(connection, target.scope, workspace_id)
                made = rows.add(
                    connection,
                    target,
                    workspace_id=workspace_id,
                    owner_id=actor.user_id,
                    created_by=actor.name,
                    reason=reason,
                )
            found = rows.of_target(connection, target, workspace_id=workspace_id)
            pause = present(found, "pause", target.scope)
            if made:
                _record(connection, actor, "pause", pause)
        if made:
            logger.info("pause.created", pause_id=pause.id, scope=pause.scope.value)
            if pause.scope not in _OF_SLOTS:
                self._set_aside()
        return pause, made

    def resume(self, actor: Actor, pause_id: UUID) -> Ended:
        """End a pause and send what may run; return the pause that has ended.

        Of many rows that were set aside the first 1,000 are released, and the others by the keeper.
        Needs the same role as the pause. Raises ForbiddenError, NotFoundError.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            found = rows.get(connection, pause_id, workspace=actor.workspace_id, lock=True)
            pause = present(found, "pause", pause_id)
            _require(actor, pause.scope)
            if pause.limit_id is not None:
                _require_limit(connection, actor, pause.limit_id)
            rows.remove(connection, pause_id)
            _record(connection, actor, "resume", pause)
        logger.info("pause.ended", pause_id=pause.id, scope=pause.scope.value)
        if pause.scope in _OF_SLOTS:
            self._admit(pause)
        left = self._release()
        self._dispatch.try_to_send()
        return Ended(pause, left)

    def get(self, actor: Actor, pause_id: UUID) -> Pause:
        """Return a pause that concerns the workspace. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            found = rows.get(connection, pause_id, workspace=actor.workspace_id)
        return present(found, "pause", pause_id)

    def find(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[Pause]:
        """Return a page of the pauses that concern the workspace, the newest first.

        Raises CursorInvalidError.
        """
        find = partial(rows.find, workspace=actor.workspace_id)
        return read_page(self._database, "pauses", cursor, limit, find)

    def hold(self) -> int:
        """Do what the keeper does: set rows aside, and release those of no pause; return how many.

        At most 1,000 of each. Raises DatabaseUnavailableError.
        """
        with self._database.autocommit() as connection:
            aside = rows.set_aside(connection, limit=_AT_ONCE)
            aside += rows.return_slots(connection, limit=_AT_ONCE)
            return aside + rows.release(connection, limit=_AT_ONCE)

    def _admit(self, pause: Pause) -> None:
        """Give out the slots that there are again, of some keys at once."""
        if self._limits is None or pause.workspace_id is None:
            return
        keys = [] if pause.key is None else [pause.key]
        if pause.limit_id is not None:
            with self._database.autocommit() as connection:
                of = LimitOf.EXECUTIONS
                keys = limits.lines(connection, pause.limit_id, of, limit=_KEYS_AT_ONCE)
        admit(self._limits, pause.workspace_id, keys)

    def _set_aside(self) -> None:
        for _ in range(_TURNS):
            with self._database.autocommit() as connection:
                aside = rows.set_aside(connection, limit=_AT_ONCE)
                slots = rows.return_slots(connection, limit=_AT_ONCE)
            if max(aside, slots) < _AT_ONCE:
                return

    def _release(self) -> int:
        with self._database.autocommit() as connection:
            if rows.release(connection, limit=_AT_ONCE) < _AT_ONCE:
                return 0
            return rows.left(connection, most=MOST_COUNTED)


def _require(actor: Actor, scope: PauseScope) -> None:
    """Raise ForbiddenError unless the actor may pause and resume what `scope` names."""
    if scope in _OF_ALL:
        actor.require_administrator()
    else:
        actor.require(Role.ADMIN if scope is PauseScope.WORKSPACE else Role.OPERATOR)


def _require_limit(
    connection: Connection, actor: Actor, limit_id: UUID, *, lock: bool = False
) -> None:
    """Raise NotFoundError, or ForbiddenError for a limit of the whole workspace but for admins.

    Raises InvalidInputError for a limit of runs, which can't be paused. A locked limit is not
    deleted before the transaction ends.
    """
    found = limits.get(connection, limit_id, workspace=actor.workspace_id, lock=lock)
    limit = present(found, "limit", limit_id)
    if limit.task_id is None and limit.workflow_id is None:
        actor.require(Role.ADMIN)
    _refuse_runs(limit, "limit")


def _refuse_runs(limit: WorkspaceLimit, field: str) -> None:
    if limit.of is LimitOf.RUNS:
        raise InvalidInputError(
            f"The limit {limit.name!r} is about runs of a workflow, and can't be paused. "
            f"`celeriac pause workflow {limit.workflow_name}` lets no step of its runs begin.",
            field=field,
        )


def _check_key(connection: Connection, actor: Actor, key: str) -> None:
    """Raise InvalidInputError for a key that is all of a limit: it is paused by its name.

    Also for a key of a limit of runs.
    """
    name = key.removeprefix(LIMIT_PREFIX)
    if name == key:
        return
    workspace = actor.workspace_id
    of_key = limits.id_of_name(connection, name.partition(":")[0], workspace=workspace)
    limit = None if of_key is None else limits.get(connection, of_key, workspace=workspace)
    if limit is not None:
        _refuse_runs(limit, "key")
    whole = limits.id_of_name(connection, name, workspace=workspace)
    if whole is not None:
        raise InvalidInputError(
            f"{key} is the key of all executions of a limit; pause the limit: scope limit, {name}.",
            field="key",
        )


def _check_number(connection: Connection, scope: PauseScope, workspace_id: UUID | None) -> None:
    if rows.count(connection, scope, workspace=workspace_id) >= MOST_PAUSES:
        of = "The installation" if workspace_id is None else "The workspace"
        raise ConflictError(
            f"{of} has {MOST_PAUSES} paused {scope}s, which is the most; resume one first, or "
            "pause what is above them."
        )


def _record(connection: Connection, actor: Actor, verb: str, pause: Pause) -> None:
    subject = (
        pause.queue
        or pause.worker
        or pause.task_id
        or pause.workflow_id
        or pause.limit_id
        or pause.key
        or pause.workspace_id
        or PauseScope.SYSTEM.value
    )
    details = {"pause_id": str(pause.id), "reason": pause.reason}
    audit.record(connection, actor, f"{pause.scope}.{verb}", [subject], details=details)
