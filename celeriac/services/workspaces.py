"""Workspaces and their members."""

from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

import structlog

from celeriac.db import accounts, audit, workspaces
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import queries
from celeriac.db.workflows import runs
from celeriac.domain.accounts import Actor, Member, Role, User, Workspace
from celeriac.domain.errors import ConflictError, ForbiddenError, NameTakenError, NotFoundError
from celeriac.domain.executions.model import ExecutionFilter
from celeriac.domain.paging import Page
from celeriac.kit.ids import parse_uuid
from celeriac.kit.json_types import JsonValue
from celeriac.services.reading import present, read_page

logger = structlog.get_logger(__name__)

CancelWorkspace = Callable[[Actor, UUID], object]
"""Cancels what has not ended in a workspace: its executions, or its runs of workflows."""


class Workspaces:
    """Workspaces and their members. Safe to share between threads.

    A `reference` is a workspace's id or name. Administrators see all workspaces, others those of
    which they are members; a key of another than the personal workspace sees its own alone.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, actor: Actor, name: str) -> Workspace:
        """Create a workspace without members. Raises ForbiddenError, NameTakenError."""
        actor.require_administrator()
        with self._database.transaction() as connection:
            workspace_id = workspaces.add(connection, name)
            if workspace_id is None:
                raise NameTakenError(
                    f"There is a workspace or a user {name!r} already; choose another name.",
                    field="name",
                )
            made = present(workspaces.find_one(connection, str(workspace_id)), "workspace", name)
            _record(connection, actor, "create", made)
        logger.info("workspace.created", workspace_id=workspace_id, name=name)
        return made

    def get(self, actor: Actor, reference: str) -> Workspace:
        """Return a workspace. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            return _visible(connection, actor, reference)

    def find(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[Workspace]:
        """Return a page of the workspaces that the actor may see. Raises CursorInvalidError."""
        find = partial(
            workspaces.find,
            member=None if actor.administrator else actor.user_id,
            only=None if actor.administrator or actor.personal_key else actor.workspace_id,
        )
        return read_page(self._database, "workspaces", cursor, limit, find)

    def delete(
        self, actor: Actor, reference: str, *, cancel: Sequence[CancelWorkspace] = ()
    ) -> None:
        """Delete a workspace with its catalog, budgets, cassettes, keys and memberships.

        Executions, runs, sessions, usage and the audit trail stay until retention removes them.
        With `cancel` what has not ended is cancelled by it; running executions end within seconds.
        What a request stores at the same moment is cancelled by the keeper.
        Raises ForbiddenError, NotFoundError, and ConflictError for a personal workspace or, without
        `cancel`, if executions or runs of workflows have not ended.
        """
        actor.require_administrator()
        if cancel:
            with self._database.transaction() as connection:
                workspace = shared(_visible(connection, actor, reference))
                workspaces.switch_off(connection, workspace.id)
            for each in cancel:
                each(actor, workspace.id)
        with self._database.transaction() as connection:
            workspace = _locked(connection, shared(_visible(connection, actor, reference)))
            revoked = workspaces.end(connection, workspace.id)
            # after it, so that what was submitted until then is found
            wanted = ExecutionFilter(workspace_id=workspace.id, cancellable=True)
            if queries.find_ids(connection, wanted, before=None, limit=1) or runs.uncancelled_in(
                connection, workspace.id, limit=1, compensating=not cancel
            ):
                raise ConflictError(
                    f"The workspace {workspace.name!r} has executions or runs of workflows that "
                    "have not ended. Wait for them, or cancel them with it: cancel=true."
                )
            _record(connection, actor, "delete", workspace, name=workspace.name)
            _record_revoked(connection, actor, workspace, revoked)
        logger.info("workspace.deleted", workspace_id=workspace.id, name=workspace.name)

    def members(
        self, actor: Actor, reference: str, *, cursor: str | None = None, limit: int = 50
    ) -> Page[Member]:
        """Return a page of a workspace's members. Raises NotFoundError, CursorInvalidError."""

        def find(connection: Connection, *, before: UUID | None, limit: int) -> list[Member]:
            workspace = _visible(connection, actor, reference)
            return workspaces.members(connection, workspace.id, before=before, limit=limit)

        return read_page(self._database, "members", cursor, limit, find)

    def add_member(self, actor: Actor, reference: str, user: str, role: Role) -> Member:
        """Make a user, named or by id, a member of a workspace.

        Raises ForbiddenError, NotFoundError, and ConflictError for a personal workspace or a user
        who is a member already.
        """
        actor.require_administrator()
        with self._database.transaction() as connection:
            workspace = _locked(connection, shared(_visible(connection, actor, reference)))
            found = _user(connection, user)
            if not workspaces.add_member(connection, workspace.id, found.id, role):
                raise ConflictError(
                    f"The user {found.name!r} is a member already; change the role instead."
                )
            _record(
                connection, actor, "add_member", workspace, user_id=str(found.id), role=role.value
            )
            member = _member(connection, workspace, found.id)
        logger.info("workspace.member_added", workspace_id=workspace.id, member_id=found.id)
        return member

    def change_member(
        self,
        actor: Actor,
        reference: str,
        user_id: UUID,
        role: Role,
        *,
        without_admin: bool = False,
    ) -> Member:
        """Change a member's role; their keys in the workspace never exceed it.

        Raises ForbiddenError, NotFoundError, and ConflictError for a personal workspace or its last
        admin; administrators may say that it may be left `without_admin`.
        """
        with self._database.transaction() as connection:
            workspace = _locked(connection, shared(managed(connection, actor, reference)))
            before = _member(connection, workspace, user_id, lock=True)
            if not role.includes(Role.ADMIN):
                _keep_an_admin(connection, actor, workspace, before, without_admin=without_admin)
            workspaces.change_member(connection, workspace.id, user_id, role)
            _record(
                connection,
                actor,
                "change_member",
                workspace,
                user_id=str(user_id),
                before=before.role.value,
                role=role.value,
            )
            member = _member(connection, workspace, user_id)
        logger.info("workspace.member_changed", workspace_id=workspace.id, member_id=user_id)
        return member

    def remove_member(
        self, actor: Actor, reference: str, user_id: UUID, *, without_admin: bool = False
    ) -> None:
        """Remove a member, with their keys and private views there; what else they made stays.

        Every member may leave, with a key that does not limit their role. Raises ForbiddenError,
        NotFoundError, and ConflictError for a personal workspace or its last admin; administrators
        may say that it may be left `without_admin`.
        """
        leaves = user_id == actor.user_id
        with self._database.transaction() as connection:
            find = _visible if leaves else managed
            workspace = _locked(connection, shared(find(connection, actor, reference)))
            member = _member(connection, workspace, user_id, lock=True)
            if leaves and not actor.limit.includes(member.role):
                raise ForbiddenError(
                    f"The key has the role {actor.limit}, yours in {workspace.name!r} is "
                    f"{member.role}: leave with a key of that role.",
                    required=member.role.value,
                )
            _keep_an_admin(connection, actor, workspace, member, without_admin=without_admin)
            revoked = workspaces.remove_member(connection, workspace.id, user_id)
            _record(
                connection,
                actor,
                "remove_member",
                workspace,
                user_id=str(user_id),
                role=member.role.value,
            )
            _record_revoked(connection, actor, workspace, revoked)
        logger.info("workspace.member_removed", workspace_id=workspace.id, member_id=user_id)


def _visible(connection: Connection, actor: Actor, reference: str) -> Workspace:
    """Return a workspace that the actor may see. Raises NotFoundError."""
    found = present(workspaces.find_one(connection, reference), "workspace", reference)
    if actor.administrator or found.id == actor.workspace_id:
        return found
    if actor.personal_key and workspaces.member(connection, found.id, actor.user_id):
        return found
    raise NotFoundError("workspace", reference)


def managed(connection: Connection, actor: Actor, reference: str) -> Workspace:
    """Return a workspace whose members the actor manages: as its admin, or as administrator.

    Raises NotFoundError and ForbiddenError.
    """
    found = _visible(connection, actor, reference)
    if actor.administrator or (found.id == actor.workspace_id and actor.role.includes(Role.ADMIN)):
        return found
    raise ForbiddenError(
        f"Only admins of the workspace {found.name!r} manage its members, with a key of it.",
        required=Role.ADMIN.value,
    )


def shared(found: Workspace) -> Workspace:
    """Return the workspace; raises ConflictError for a personal one."""
    if found.personal_of is not None:
        raise ConflictError(
            f"{found.name!r} is a personal workspace: its user is its only member, with the user's "
            "own role. Create a workspace to share."
        )
    return found


def _locked(connection: Connection, found: Workspace) -> Workspace:
    """Lock a workspace before its members, as its deletion does, and return it.

    Raises NotFoundError if it was deleted meanwhile.
    """
    if not workspaces.lock(connection, found.id):
        raise NotFoundError("workspace", found.name)
    return found


def _keep_an_admin(
    connection: Connection,
    actor: Actor,
    workspace: Workspace,
    member: Member,
    *,
    without_admin: bool,
) -> None:
    """Raise an error if the workspace would be left without an admin, unless that is wanted.

    The workspace is locked. Raises ConflictError, and ForbiddenError if someone wants it who is no
    administrator.
    """
    if without_admin:
        actor.require_administrator()
        return
    if member.role is Role.ADMIN and not workspaces.has_other_admin(
        connection, workspace.id, member.id
    ):
        raise ConflictError(
            f"{member.name!r} is the last admin of {workspace.name!r}: make another member an "
            "admin first. Administrators can leave it without one (without_admin)."
        )


def _user(connection: Connection, reference: str) -> User:
    key = parse_uuid(reference)
    found = (
        accounts.user_named(connection, reference)
        if key is None
        else accounts.user(connection, key)
    )
    return present(found, "user", reference)


def _member(
    connection: Connection, workspace: Workspace, user_id: UUID, *, lock: bool = False
) -> Member:
    found = workspaces.member(connection, workspace.id, user_id, lock=lock)
    return present(found, "member", user_id)


def _record(
    connection: Connection, actor: Actor, verb: str, workspace: Workspace, **details: JsonValue
) -> None:
    audit.record(
        connection,
        actor,
        f"workspace.{verb}",
        [workspace.id],
        details=details,
        workspace_id=workspace.id,
    )


def _record_revoked(
    connection: Connection, actor: Actor, workspace: Workspace, key_ids: Sequence[UUID]
) -> None:
    audit.record(
        connection,
        actor,
        "api_key.revoke",
        key_ids,
        details={"revoked_with": f"the membership in {workspace.name}"},
        workspace_id=workspace.id,
    )
