"""Saved views of executions: made, found, changed and deleted (docs/adr/0073)."""

from dataclasses import dataclass, replace
from uuid import UUID

import structlog

from celeriac.db import audit, workspaces
from celeriac.db import saved_views as rows
from celeriac.db.engine import Connection, Database
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.audit import changes
from celeriac.domain.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NameTakenError,
    NotFoundError,
)
from celeriac.domain.paging import Page
from celeriac.domain.saved_views import BUILT_IN, MOST_VIEWS, SavedView, built_in
from celeriac.kit.ids import parse_uuid, uuid7
from celeriac.kit.json_types import JsonObject
from celeriac.services.reading import present, read_page

logger = structlog.get_logger(__name__)

_KIND = "views"


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewChange:
    """What to change in a view; None stays."""

    name: str | None = None
    shared: bool | None = None
    filter: JsonObject | None = None


class SavedViews:
    """The saved views of workspaces. Safe to share between threads.

    A `reference` is an id or a name; of views with the same name the actor's own comes first, then
    the shared one. Private views of others are not found. Filters are checked by the caller.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, actor: Actor, name: str, selects: JsonObject, *, shared: bool) -> SavedView:
        """Save a filter under a name, for the actor or for all members of the workspace.

        Raises InvalidInputError for a filter that selects everything, ForbiddenError,
        NameTakenError, and ConflictError if there are too many.
        """
        actor.require(Role.OPERATOR)
        _check(name, selects)
        view_id, workspace = uuid7(), actor.workspace_id
        values = {
            "id": view_id,
            "workspace_id": workspace,
            "owner_id": actor.user_id,
            "created_by": actor.name,
            "name": name,
            "shared": shared,
            "filter": selects,
        }
        with self._database.transaction() as connection:
            _lock(connection, actor)
            _check_number(connection, workspace, None if shared else actor.user_id)
            if not rows.add(connection, values):
                raise _taken(name, shared=shared)
            details: JsonObject = {"name": name, "shared": shared, "filter": selects}
            audit.record(connection, actor, "view.create", [view_id], details=details)
            made = _stored(connection, actor, view_id)
        logger.info("view.created", view_id=view_id, shared=shared)
        return made

    def get(self, actor: Actor, reference: str) -> SavedView:
        """Return a view that the actor sees. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            return _found(connection, actor, reference)

    def find(self, actor: Actor, *, cursor: str | None = None, limit: int = 50) -> Page[SavedView]:
        """Return a page of the views that the actor sees: the newest first, then the built-in ones.

        Raises CursorInvalidError.
        """

        def find(connection: Connection, *, before: UUID | None, limit: int) -> list[SavedView]:
            found = rows.find(
                connection,
                workspace=actor.workspace_id,
                user=actor.user_id,
                before=before,
                limit=limit,
            )
            older = [each for each in BUILT_IN if before is None or each.id < before]
            return [*found, *older][:limit]

        return read_page(self._database, _KIND, cursor, limit, find)

    def change(self, actor: Actor, reference: str, wanted: ViewChange) -> SavedView:
        """Change a view. Only its owner makes it shared or private.

        Raises ForbiddenError, NotFoundError, NameTakenError, InvalidInputError for a filter that
        selects everything, and ConflictError for a built-in view or if there are too many.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            before = _locked(connection, actor, reference)
            after = replace(
                before,
                name=before.name if wanted.name is None else wanted.name,
                shared=before.shared if wanted.shared is None else wanted.shared,
                filter=before.filter if wanted.filter is None else wanted.filter,
            )
            if after == before:
                return before
            _check(after.name, after.filter)
            _check_place(connection, actor, before, after)
            rows.change(
                connection, before.id, name=after.name, shared=after.shared, selects=after.filter
            )
            details = changes(before, after)
            audit.record(connection, actor, "view.change", [before.id], details=details)
            changed = _stored(connection, actor, before.id)
        logger.info("view.changed", view_id=before.id)
        return changed

    def delete(self, actor: Actor, reference: str) -> None:
        """Delete a view. Raises ForbiddenError, NotFoundError, ConflictError for a built-in one."""
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            gone = _locked(connection, actor, reference)
            rows.remove(connection, gone.id)
            details: JsonObject = {"name": gone.name, "shared": gone.shared}
            audit.record(connection, actor, "view.delete", [gone.id], details=details)
        logger.info("view.deleted", view_id=gone.id)


def _check(name: str, selects: JsonObject) -> None:
    if built_in(name) is not None:
        raise NameTakenError(
            f"{name!r} is the name of a built-in view; choose another one.", field="name"
        )
    if not selects:
        raise InvalidInputError(
            "filter is empty and would select everything; name at least one field, such as status.",
            field="filter",
        )


def _check_place(connection: Connection, actor: Actor, before: SavedView, after: SavedView) -> None:
    """Check that the view may have its new name, for those who see it then."""
    if after.shared is not before.shared and before.owner_id != actor.user_id:
        raise ForbiddenError(f"Only {before.created_by} can make this view private; save your own.")
    owner = None if after.shared else before.owner_id
    workspace = actor.workspace_id
    if after.shared is not before.shared:
        _check_number(connection, workspace, owner)
    if rows.name_taken(connection, after.name, workspace=workspace, owner=owner, besides=before.id):
        raise _taken(after.name, shared=after.shared)


def _check_number(connection: Connection, workspace: UUID, owner: UUID | None) -> None:
    if rows.count(connection, workspace=workspace, owner=owner) >= MOST_VIEWS:
        whose = "The workspace has" if owner is None else "You have"
        kind = "shared" if owner is None else "private"
        raise ConflictError(
            f"{whose} {MOST_VIEWS} {kind} views, which is the most; delete one first."
        )


def _taken(name: str, *, shared: bool) -> NameTakenError:
    whose = "The workspace already has a shared" if shared else "You already have a private"
    return NameTakenError(
        f"{whose} view named {name!r}; choose another name or change that one.", field="name"
    )


def _lock(connection: Connection, actor: Actor) -> None:
    """Lock the workspace, so that one change of its views at a time counts and compares names."""
    if not workspaces.lock(connection, actor.workspace_id):
        raise NotFoundError("workspace", actor.workspace_id)


def _locked(connection: Connection, actor: Actor, reference: str) -> SavedView:
    _lock(connection, actor)
    found = _found(connection, actor, reference, lock=True)
    if found.built_in:
        raise ConflictError(f"{found.name!r} is built in and stays; save your own view instead.")
    return found


def _found(
    connection: Connection, actor: Actor, reference: str, *, lock: bool = False
) -> SavedView:
    workspace, user = actor.workspace_id, actor.user_id
    key = parse_uuid(reference)
    if (system := built_in(key or reference)) is not None:
        return system
    key = key or rows.id_of_name(connection, reference, workspace=workspace, user=user)
    if key is None:
        raise NotFoundError("view", reference)
    found = rows.get(connection, key, workspace=workspace, user=user, lock=lock)
    return present(found, "view", reference)


def _stored(connection: Connection, actor: Actor, view_id: UUID) -> SavedView:
    found = rows.get(connection, view_id, workspace=actor.workspace_id, user=actor.user_id)
    return present(found, "view", view_id)
