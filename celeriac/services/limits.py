"""Limits of a workspace: made, changed and deleted while its executions live (docs/adr/0067)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import structlog
from pydantic import ValidationError

from celeriac.db import audit, workspaces
from celeriac.db import limits as rows
from celeriac.db.catalog import TASKS, WORKFLOWS
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import pauses
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.audit import changes
from celeriac.domain.errors import ConflictError, InvalidInputError, NameTakenError, NotFoundError
from celeriac.domain.limit_policies import LimitOf
from celeriac.domain.paging import Page
from celeriac.domain.workspace_limits import (
    MOST_LIMITS,
    MOST_OF_ONE,
    LimitSpec,
    LimitUse,
    WorkspaceLimit,
    check_names,
)
from celeriac.kit.ids import parse_uuid, uuid7
from celeriac.kit.validation import first_fault
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.executions.limits import TaskLimits, admit
from celeriac.services.reading import present, read_page
from celeriac.services.workflows.advance import Advance

logger = structlog.get_logger(__name__)

MOST_COUNTED = 1_000
"""Up to how many executions the use of a limit is counted."""

_SECONDS = 2.0
"""How long a change begins runs itself; the keeper continues."""

_KEYS_AT_ONCE = 16
"""Keys of which a change gives out slots itself; the keeper does so for all."""


@dataclass(frozen=True, slots=True)
class UsedLimit:
    """A limit with its use."""

    limit: WorkspaceLimit
    use: LimitUse

    @property
    def id(self) -> UUID:
        """The limit's id."""
        return self.limit.id


class WorkspaceLimits:
    """The limits of workspaces. Safe to share between threads."""

    def __init__(
        self, database: Database, limits: TaskLimits, dispatch: Dispatch, advance: Advance
    ) -> None:
        """Give out slots by `limits`, and send what has got them by `dispatch`.

        Runs get theirs, and begin, by `advance`.
        """
        self._database = database
        self._limits = limits
        self._dispatch = dispatch
        self._advance = advance

    def create(
        self,
        actor: Actor,
        name: str,
        spec: LimitSpec,
        *,
        task_id: UUID | None = None,
        workflow_id: UUID | None = None,
    ) -> UsedLimit:
        """Make a limit; it holds for all that begins from now on, whenever it was submitted.

        One of runs needs a workflow, and holds for runs that are submitted from now on.
        That of a task or workflow needs an operator, that of the workspace an admin. The caller has
        checked that these are of the workspace. Raises ForbiddenError, NameTakenError,
        InvalidInputError for a key that the schema of the task or workflow rules out, and
        ConflictError if there are too many.
        """
        with self._database.transaction() as connection:
            made = add(connection, actor, name, spec, task_id=task_id, workflow_id=workflow_id)
        logger.info("limit.created", limit_id=made.id)
        return UsedLimit(made, LimitUse(0, 0, 0))

    def change(self, actor: Actor, reference: str, wanted: Mapping[str, object]) -> UsedLimit:
        """Change `max`, `seconds`, `burst` or `policy`; what runs is never cancelled.

        The numbers hold at once, the policy for executions that are submitted from now on. What may
        begin by a larger number does so at once. Needs the same role as `create`. Raises
        InvalidInputError, ForbiddenError, NotFoundError.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            before = _locked(connection, actor, reference)
            require(actor, before.task_id or before.workflow_id)
            spec = _changed(before, wanted)
            after = change(connection, actor, before, spec)
            if spec == before.spec:
                return self._used(connection, after)
        logger.info("limit.changed", limit_id=before.id)
        self._admit(after)
        with self._database.autocommit() as connection:
            return self._used(connection, after)

    def after_apply(self, actor: Actor, limit_id: UUID) -> None:
        """Let begin what a limit allows now that `add` or `change` has stored."""
        with self._database.autocommit() as connection:
            limit = rows.get(connection, limit_id, workspace=actor.workspace_id)
        if limit is not None:
            self._admit(limit)

    def delete(self, actor: Actor, reference: str) -> None:
        """Delete a limit: what waits for it alone begins. Needs the same role as `create`.

        Raises ForbiddenError, NotFoundError.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            gone = _locked(connection, actor, reference)
            require(actor, gone.task_id or gone.workflow_id)
            rows.delete(connection, gone.id)
            pauses.remove_of_limits(connection, [gone.id])
            if gone.of is LimitOf.EXECUTIONS:
                rows.change_revision(connection, gone.workspace_id)
            details = {"name": gone.name}
            audit.record(connection, actor, "limit.delete", [gone.id], details=details)
        logger.info("limit.deleted", limit_id=gone.id)
        self._admit(gone)

    def get(self, actor: Actor, reference: str) -> UsedLimit:
        """Return a limit of the workspace, by its id or name. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            return self._used(connection, found(connection, actor, reference))

    def find(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[UsedLimit]:
        """Return a page of the workspace's limits, the newest first. Raises CursorInvalidError."""
        find = partial(self._find, workspace=actor.workspace_id)
        return read_page(self._database, "limits", cursor, limit, find)

    def _find(
        self, connection: Connection, *, workspace: UUID, before: UUID | None, limit: int
    ) -> list[UsedLimit]:
        page = rows.find(connection, workspace=workspace, before=before, limit=limit)
        used = rows.use(connection, [each.id for each in page], most=MOST_COUNTED)
        return [UsedLimit(each, used[each.id]) for each in page]

    def _used(self, connection: Connection, limit: WorkspaceLimit) -> UsedLimit:
        used = rows.use(connection, [limit.id], most=MOST_COUNTED)
        return UsedLimit(limit, used[limit.id])

    def _admit(self, limit: WorkspaceLimit) -> None:
        """Give out the slots that there are now, and begin what has got its own."""
        with self._database.autocommit() as connection:
            keys = rows.lines(connection, limit.id, limit.of, limit=_KEYS_AT_ONCE)
        if limit.of is LimitOf.RUNS:
            self._advance.let_begin(limit.workspace_id, keys, seconds=_SECONDS)
        elif keys and admit(self._limits, limit.workspace_id, keys):
            self._dispatch.try_to_send()


def add(
    connection: Connection,
    actor: Actor,
    name: str,
    spec: LimitSpec,
    *,
    task_id: UUID | None,
    workflow_id: UUID | None,
) -> WorkspaceLimit:
    """Store a limit in the caller's transaction. Raises what `WorkspaceLimits.create` raises."""
    require(actor, task_id or workflow_id)
    limit_id, workspace_id = uuid7(), actor.workspace_id
    values = {
        "id": limit_id,
        "workspace_id": workspace_id,
        "name": name,
        "task_id": task_id,
        "workflow_id": workflow_id,
        "owner_id": actor.user_id,
        "created_by": actor.name,
        **_values(spec),
    }
    if not workspaces.lock(connection, workspace_id):
        raise NotFoundError("workspace", workspace_id)
    _check_number(connection, workspace_id, task_id, workflow_id)
    task = task_id and TASKS.by_id(connection, task_id, workspace=workspace_id)
    workflow = workflow_id and WORKFLOWS.by_id(connection, workflow_id, workspace=workspace_id)
    check_names(
        spec,
        task=task.spec.variables_schema if task else None,
        workflow=workflow.spec.input if workflow else None,
    )
    if not rows.add(connection, values):
        raise NameTakenError(
            f"The workspace already has a limit named {name!r}; choose another name or change "
            "that one.",
            field="name",
        )
    if spec.of is LimitOf.EXECUTIONS:  # the submission of a run reads the rows
        rows.change_revision(connection, workspace_id)
    of = {"task_id": task_id and str(task_id), "workflow_id": workflow_id and str(workflow_id)}
    details = {"name": name, **of, **_values(spec)}
    audit.record(connection, actor, "limit.create", [limit_id], details=details)
    return found(connection, actor, str(limit_id))


def change(
    connection: Connection, actor: Actor, before: WorkspaceLimit, spec: LimitSpec
) -> WorkspaceLimit:
    """Change a locked limit in the caller's transaction; then call `WorkspaceLimits.after_apply`.

    Raises ForbiddenError.
    """
    require(actor, before.task_id or before.workflow_id)
    if spec == before.spec:
        return before
    rows.change(connection, before.id, _values(spec))
    if spec.of is LimitOf.EXECUTIONS and spec.policy is not before.policy:  # not for numbers
        rows.change_revision(connection, before.workspace_id)
    after = found(connection, actor, str(before.id))
    audit.record(connection, actor, "limit.change", [before.id], details=changes(before, after))
    return after


def require(actor: Actor, subject: object) -> None:
    """Raise ForbiddenError unless the actor may set a limit of `subject`, or of the workspace."""
    actor.require(Role.ADMIN if subject is None else Role.OPERATOR)


def _check_number(
    connection: Connection, workspace_id: UUID, task_id: UUID | None, workflow_id: UUID | None
) -> None:
    of_workspace, of_one = rows.count(
        connection, workspace_id, task_id=task_id, workflow_id=workflow_id
    )
    if of_workspace >= MOST_LIMITS:
        raise ConflictError(
            f"The workspace has {MOST_LIMITS} limits, which is the most; delete one first."
        )
    if of_one >= MOST_OF_ONE:
        what = "The task" if task_id else "The workflow" if workflow_id else "The whole workspace"
        raise ConflictError(
            f"{what} has {MOST_OF_ONE} limits, which is the most; change or delete one of them."
        )


def found(
    connection: Connection, actor: Actor, reference: str, *, lock: bool = False
) -> WorkspaceLimit:
    """Return a limit by its id or name, locked if wanted. Raises NotFoundError."""
    workspace = actor.workspace_id
    key = parse_uuid(reference) or rows.id_of_name(connection, reference, workspace=workspace)
    stored = None if key is None else rows.get(connection, key, workspace=workspace, lock=lock)
    return present(stored, "limit", reference)


def _locked(connection: Connection, actor: Actor, reference: str) -> WorkspaceLimit:
    """Lock a limit for a change: its workspace before it, as its deletion and new limits do."""
    workspaces.lock(connection, actor.workspace_id)
    return found(connection, actor, reference, lock=True)


def _changed(before: WorkspaceLimit, wanted: Mapping[str, object]) -> LimitSpec:
    """Return what a limit says after a change. Raises InvalidInputError."""
    if "seconds" in wanted and (wanted["seconds"] is None) != (before.seconds is None):
        raise InvalidInputError(
            "A limit stays a rate, or what may run at once: make another limit, and delete this "
            "one.",
            field="seconds",
        )
    try:
        return LimitSpec.model_validate(before.spec.model_dump() | dict(wanted))
    except ValidationError as error:
        field, message = first_fault(error)
        raise InvalidInputError(f"{field or 'The limit'}: {message}", field=field) from error


def _values(spec: LimitSpec) -> dict[str, object]:
    return spec.model_dump(mode="json")
