"""Inbound hooks of a workspace, and the last deliveries to them; for its admins."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import structlog

from celeriac.db import audit
from celeriac.db.catalog import TASKS, WORKFLOWS
from celeriac.db.engine import Connection, Database
from celeriac.db.hooks import deliveries, hooks
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.audit import changes
from celeriac.domain.errors import ConflictError, InvalidInputError, NameTakenError, NotFoundError
from celeriac.domain.hooks.mapping import check_mapping, check_when
from celeriac.domain.hooks.model import (
    DEFAULT_PER_MINUTE,
    CalledHook,
    Hook,
    HookDelivery,
    HookDeliveryStatus,
    StoredSecret,
    Verification,
)
from celeriac.domain.hooks.secrets import HookKeys
from celeriac.domain.hooks.signatures import sample_headers, secret_fault
from celeriac.domain.paging import Page
from celeriac.domain.webhooks import DEFAULT_OVERLAP_HOURS
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonObject, JsonValue, dumps
from celeriac.services.catalog import versioned
from celeriac.services.reading import present, read_page

logger = structlog.get_logger(__name__)

MOST_HOOKS = 200
"""How many a workspace may have."""

MAX_MAPPING = 64_000
"""The longest mapping, as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewHook:
    """A hook to create: of `task` and `workflow` one is given, as an id or a name."""

    name: str | None = None
    task: str | None = None
    workflow: str | None = None
    description: str = ""
    verification: Verification = Verification.STANDARD
    secret: str | None = None
    """What the sender signs with, if the sender makes it. Otherwise it is made here."""
    mapping: JsonObject | None = None
    when: str | None = None
    per_minute: int = DEFAULT_PER_MINUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class HookChange:
    """What to change of a hook; names that are not in `values` stay as they are."""

    values: Mapping[str, Any]
    """Of `description`, `mapping`, `when` and `per_minute`."""


@dataclass(frozen=True, slots=True)
class ShownSecret:
    """A hook with its new secret, which is shown once."""

    hook: Hook
    secret: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A hook to call, and the headers with which its sender signs a body."""

    called: CalledHook
    headers: Mapping[str, str]


class Hooks:
    """Hooks and their deliveries. Safe to share between threads."""

    def __init__(self, database: Database, keys: HookKeys) -> None:
        self._database = database
        self._keys = keys

    def token(self, hook_id: UUID) -> str:
        """Return the last part of the URL of a hook."""
        return self._keys.token(hook_id)

    def create(self, actor: Actor, new: NewHook) -> ShownSecret:
        """Create a hook.

        Raises ForbiddenError, NotFoundError for the task or workflow, InvalidInputError, and
        ConflictError if the workspace has too many.
        """
        actor.require(Role.ADMIN)
        if (new.task is None) == (new.workflow is None):
            raise InvalidInputError("Give a task or a workflow, and not both.", field="task")
        check_when(new.when)
        with self._database.transaction() as connection:
            made = self.add(connection, actor, new)
            stored = StoredSecret(1, hooks.sealed_secret(connection, made.id))
        logger.info("hook.created", hook_id=made.id)
        return ShownSecret(made, self._keys.secret(made.id, stored))

    def add(self, connection: Connection, actor: Actor, new: NewHook) -> Hook:
        """Store a hook in the caller's transaction. Raises what `create` raises."""
        actor.require(Role.ADMIN)
        hook_id = uuid7()
        sealed = self._sealed(hook_id, 1, new.verification, new.secret)
        task_id, workflow_id = _target(connection, actor, new)
        _check_mapping(connection, actor, task_id, workflow_id, new.mapping)
        if hooks.count(connection, actor.workspace_id) >= MOST_HOOKS:
            raise ConflictError(
                f"The workspace has {MOST_HOOKS} hooks, which is the most; delete one first."
            )
        stored = hooks.add(
            connection,
            hook_id,
            workspace_id=actor.workspace_id,
            owner_id=actor.user_id,
            name=new.name,
            task_id=task_id,
            workflow_id=workflow_id,
            description=new.description,
            verification=new.verification,
            mapping=new.mapping,
            when=new.when,
            per_minute=new.per_minute,
            sealed=sealed,
        )
        if not stored:
            raise NameTakenError(
                f"The workspace already has a hook named {new.name!r}; choose another name or "
                "change that one.",
                field="name",
            )
        _record(connection, actor, "create", hook_id, starts=str(task_id or workflow_id),
                verification=new.verification.value)  # fmt: skip
        return _found(connection, actor, hook_id)

    def get(self, actor: Actor, hook_id: UUID) -> Hook:
        """Return a hook. Raises ForbiddenError, NotFoundError."""
        actor.require(Role.ADMIN)
        with self._database.autocommit() as connection:
            return _found(connection, actor, hook_id)

    def find(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[Hook]:
        """Return a page of the workspace's hooks, the newest first.

        Raises ForbiddenError, CursorInvalidError.
        """
        actor.require(Role.ADMIN)
        find = partial(hooks.find, workspace=actor.workspace_id)
        return read_page(self._database, "hooks", cursor, limit, find)

    def change(self, actor: Actor, hook_id: UUID, change: HookChange) -> Hook:
        """Change what is given.

        Raises ForbiddenError, NotFoundError, InvalidInputError.
        """
        actor.require(Role.ADMIN)
        check_when(change.values.get("when"))
        with self._database.transaction() as connection:
            before = _found(connection, actor, hook_id, lock=True)
            after = change_hook(connection, actor, before, change.values)
        logger.info("hook.changed", hook_id=hook_id)
        return after

    def pause(self, actor: Actor, hook_id: UUID) -> Hook:
        """Let a hook refuse what is sent to it. Raises ForbiddenError, NotFoundError."""
        return self._set_active(actor, hook_id, active=False)

    def resume(self, actor: Actor, hook_id: UUID) -> Hook:
        """Let a paused hook take requests again. Raises ForbiddenError, NotFoundError."""
        return self._set_active(actor, hook_id, active=True)

    def _set_active(self, actor: Actor, hook_id: UUID, *, active: bool) -> Hook:
        actor.require(Role.ADMIN)
        with self._database.transaction() as connection:
            set_active(connection, actor, _found(connection, actor, hook_id, lock=True), active)
            return _found(connection, actor, hook_id)

    def rotate(
        self,
        actor: Actor,
        hook_id: UUID,
        *,
        secret: str | None = None,
        overlap_hours: float = DEFAULT_OVERLAP_HOURS,
    ) -> ShownSecret:
        """Give a hook a new secret; the one until now stays valid for `overlap_hours`.

        An older one is not valid any more. `secret` is one that the sender has made. Raises
        ForbiddenError, NotFoundError, InvalidInputError.
        """
        actor.require(Role.ADMIN)
        with self._database.transaction() as connection:
            before = _found(connection, actor, hook_id, lock=True)
            number = before.secret_number + 1
            sealed = self._sealed(hook_id, number, before.verification, secret)
            hooks.rotate(connection, hook_id, sealed=sealed, hours=overlap_hours)
            after = _found(connection, actor, hook_id)
            _record(connection, actor, "rotate", hook_id, overlap_hours=overlap_hours)
        logger.info("hook.rotated", hook_id=hook_id, overlap_hours=overlap_hours)
        return ShownSecret(after, self._keys.secret(hook_id, StoredSecret(number, sealed)))

    def delete(self, actor: Actor, hook_id: UUID) -> None:
        """Delete a hook; its URL is unknown from then on. Raises ForbiddenError, NotFoundError."""
        actor.require(Role.ADMIN)
        with self._database.transaction() as connection:
            _found(connection, actor, hook_id, lock=True)
            hooks.delete(connection, hook_id)
            _record(connection, actor, "delete", hook_id)
        logger.info("hook.deleted", hook_id=hook_id)

    def deliveries(
        self,
        actor: Actor,
        hook_id: UUID,
        *,
        status: HookDeliveryStatus | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[HookDelivery]:
        """Return a page of what was delivered to a hook, the newest first.

        Raises ForbiddenError, NotFoundError, CursorInvalidError.
        """
        self.get(actor, hook_id)
        find = partial(deliveries.find, hook_id=hook_id, status=status)
        return read_page(self._database, "hook_deliveries", cursor, limit, find)

    def sample(self, actor: Actor, hook_id: UUID, body: bytes) -> Sample:
        """Return the headers with which a hook's sender would sign `body` now.

        Raises ForbiddenError, NotFoundError.
        """
        self.get(actor, hook_id)
        with self._database.transaction() as connection:
            called = hooks.called(connection, hook_id)
            if called is None:
                raise NotFoundError("hook", hook_id)
            _record(connection, actor, "test", hook_id)
        secret = self._keys.secret(hook_id, called.secrets[0])
        name = f"test_{uuid7()}"
        made = sample_headers(called.hook.verification, secret, name, int(called.now), body)
        return Sample(called, dict(made))

    def _sealed(
        self, hook_id: UUID, number: int, form: Verification, secret: str | None
    ) -> bytes | None:
        if secret is None:
            return None
        fault = secret_fault(form, secret)
        if fault is not None:
            raise InvalidInputError(f"secret {fault}.", field="secret")
        return self._keys.sealed(hook_id, number, secret)


def change_hook(
    connection: Connection, actor: Actor, before: Hook, given: Mapping[str, Any]
) -> Hook:
    """Change what is in `given` of a locked hook, which may also be what it starts.

    Raises InvalidInputError.
    """
    names = ("task_id", "workflow_id", "description", "mapping", "when", "per_minute")
    values = {name: given.get(name, getattr(before, name)) for name in names}
    _check_mapping(
        connection, actor, values["task_id"], values["workflow_id"], given.get("mapping")
    )
    hooks.change(connection, before.id, **values)
    after = _found(connection, actor, before.id)
    _record(connection, actor, "change", before.id, fields=sorted(changes(before, after)))
    return after


def set_active(connection: Connection, actor: Actor, locked: Hook, active: bool) -> None:  # noqa: FBT001 - its new value
    """Pause a locked hook, or resume it."""
    if locked.active is not active:
        hooks.set_active(connection, locked.id, active=active)
        _record(connection, actor, "resume" if active else "pause", locked.id)


def _target(connection: Connection, actor: Actor, new: NewHook) -> tuple[UUID | None, UUID | None]:
    if new.task is not None:
        return versioned.get(connection, TASKS, actor, new.task).id, None
    assert new.workflow is not None
    return None, versioned.get(connection, WORKFLOWS, actor, new.workflow).id


def _check_mapping(
    connection: Connection,
    actor: Actor,
    task_id: UUID | None,
    workflow_id: UUID | None,
    mapping: JsonObject | None,
) -> None:
    """Raise InvalidInputError if a mapping can't fit what the hook starts."""
    if mapping is None:
        return
    if len(dumps(mapping)) > MAX_MAPPING:
        raise InvalidInputError(
            f"mapping is over {MAX_MAPPING:,} characters; do the rest in the task.", field="mapping"
        )
    if task_id is not None:
        task = versioned.get(connection, TASKS, actor, str(task_id))
        schema, whose = task.spec.variables_schema, f"task {task.name}"
    else:
        workflow = versioned.get(connection, WORKFLOWS, actor, str(workflow_id))
        schema, whose = workflow.spec.input, f"workflow {workflow.name}"
    check_mapping(mapping, schema, whose)


def _found(connection: Connection, actor: Actor, hook_id: UUID, *, lock: bool = False) -> Hook:
    found = hooks.get(connection, hook_id, workspace=actor.workspace_id, lock=lock)
    return present(found, "hook", hook_id)


def _record(
    connection: Connection, actor: Actor, verb: str, hook_id: UUID, **details: JsonValue
) -> None:
    audit.record(
        connection,
        actor,
        f"hook.{verb}",
        [hook_id],
        details=details,
        workspace_id=actor.workspace_id,
    )
