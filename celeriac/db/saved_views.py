"""Saved views: private ones of a user, and shared ones of a workspace."""

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from celeriac.db.paging import columns, newest, read_all, read_one, reader
from celeriac.db.schema.saved_views import views as table
from celeriac.domain.saved_views import SavedView
from celeriac.kit.json_types import JsonObject

_SELECT = columns(SavedView, table)
_view = reader(SavedView)


def _visible(workspace: UUID, user: UUID) -> ColumnElement[bool]:
    """The shared views of a workspace and the user's own, each by its index of names."""
    own = and_(table.c.workspace_id == workspace, table.c.owner_id == user, ~table.c.shared)
    return or_(and_(table.c.workspace_id == workspace, table.c.shared), own)


def add(connection: Connection, values: dict[str, object]) -> bool:
    """Insert a view; False if its name is taken."""
    statement = insert(table).values(**values).on_conflict_do_nothing().returning(table.c.id)
    return connection.execute(statement).first() is not None


def get(
    connection: Connection, view_id: UUID, *, workspace: UUID, user: UUID, lock: bool = False
) -> SavedView | None:
    """Return a view that the user sees in the workspace, or None; `lock` locks it for a change."""
    query = _SELECT.where(table.c.id == view_id, _visible(workspace, user))
    return read_one(connection, query.with_for_update() if lock else query, _view)


def id_of_name(connection: Connection, name: str, *, workspace: UUID, user: UUID) -> UUID | None:
    """Return the id of the view with this name, the user's own before the shared one, or None."""
    query = select(table.c.id).where(table.c.name == name, _visible(workspace, user))
    return connection.execute(query.order_by(table.c.shared).limit(1)).scalar_one_or_none()


def find(
    connection: Connection, *, workspace: UUID, user: UUID, before: UUID | None, limit: int
) -> list[SavedView]:
    """Return up to `limit` views that the user sees, older than `before`, the newest first."""
    query = _SELECT.where(_visible(workspace, user))
    return read_all(connection, newest(query, table.c.id, before=before, limit=limit), _view)


def count(connection: Connection, *, workspace: UUID, owner: UUID | None) -> int:
    """Return how many private views `owner` has in the workspace, or with None the shared ones."""
    query = select(func.count()).where(table.c.workspace_id == workspace)
    if owner is None:
        query = query.where(table.c.shared)
    else:
        query = query.where(table.c.owner_id == owner, ~table.c.shared)
    return connection.execute(query).scalar_one()


def name_taken(
    connection: Connection, name: str, *, workspace: UUID, owner: UUID | None, besides: UUID
) -> bool:
    """Whether another private view of `owner` has the name, or with None another shared one."""
    same: list[ColumnElement[Any]] = [table.c.workspace_id == workspace, table.c.name == name]
    same += [table.c.shared] if owner is None else [table.c.owner_id == owner, ~table.c.shared]
    query = select(table.c.id).where(*same, table.c.id != besides)
    return connection.execute(query.limit(1)).first() is not None


def change(
    connection: Connection, view_id: UUID, *, name: str, shared: bool, selects: JsonObject
) -> None:
    """Change a view, which the caller has locked; its new name is free."""
    connection.execute(
        update(table)
        .where(table.c.id == view_id)
        .values(name=name, shared=shared, filter=selects, updated_at=func.now())
    )


def remove(connection: Connection, view_id: UUID) -> None:
    """Delete a view, which the caller has locked."""
    connection.execute(delete(table).where(table.c.id == view_id))
