"""Secrets of workspaces, and their encrypted values."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from celeriac.db.paging import columns, newest, read_all, read_one, reader
from celeriac.db.schema.secrets import secrets as table
from celeriac.domain.secrets.model import Secret

_SELECT = columns(Secret, table)
_secret = reader(Secret)


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret and its encrypted value; None for one that workers read themselves."""

    secret: Secret
    sealed: bytes | None


def _sealed(row: Row[Any]) -> Sealed:
    return Sealed(_secret(row), None if row.sealed is None else bytes(row.sealed))


def add(connection: Connection, values: dict[str, object]) -> bool:
    """Insert a secret; False if its name is taken."""
    statement = insert(table).values(**values).on_conflict_do_nothing().returning(table.c.id)
    return connection.execute(statement).first() is not None


def get(
    connection: Connection, secret_id: UUID, *, workspace: UUID, lock: bool = False
) -> Secret | None:
    """Return a secret of the workspace, or None; `lock` locks it for a change."""
    query = _SELECT.where(table.c.id == secret_id, table.c.workspace_id == workspace)
    return read_one(connection, query.with_for_update() if lock else query, _secret)


def id_of_name(connection: Connection, name: str, *, workspace: UUID) -> UUID | None:
    """Return the id of the secret that is named so in the workspace, or None."""
    query = select(table.c.id).where(table.c.workspace_id == workspace, table.c.name == name)
    return connection.execute(query).scalar_one_or_none()


def find(
    connection: Connection, *, workspace: UUID, before: UUID | None, limit: int
) -> list[Secret]:
    """Return up to `limit` secrets of the workspace older than `before`, the newest first."""
    query = _SELECT.where(table.c.workspace_id == workspace)
    return read_all(connection, newest(query, table.c.id, before=before, limit=limit), _secret)


def named(connection: Connection, names: Collection[str], *, workspace: UUID) -> dict[str, Sealed]:
    """Return those of the workspace's secrets that have one of the names, by their names."""
    query = _SELECT.add_columns(table.c.sealed).where(
        table.c.workspace_id == workspace, table.c.name.in_(sorted(names))
    )
    return {each.secret.name: each for each in read_all(connection, query, _sealed)}


def existing(connection: Connection, names: Collection[str], *, workspace: UUID) -> set[str]:
    """Return which of the names are those of secrets of the workspace."""
    query = select(table.c.name).where(
        table.c.workspace_id == workspace, table.c.name.in_(sorted(names))
    )
    return set(connection.execute(query).scalars())


def count(connection: Connection, *, workspace: UUID) -> int:
    """Return how many secrets the workspace has."""
    query = select(func.count()).where(table.c.workspace_id == workspace)
    return connection.execute(query).scalar_one()


def change(connection: Connection, secret_id: UUID, **values: object) -> None:
    """Change a secret, which the caller has locked."""
    statement = update(table).where(table.c.id == secret_id)
    connection.execute(statement.values(updated_at=func.now(), **values))


def remove(connection: Connection, secret_id: UUID) -> None:
    """Delete a secret, which the caller has locked."""
    connection.execute(delete(table).where(table.c.id == secret_id))


def after(connection: Connection, key: UUID | None, *, limit: int) -> Sequence[Sealed]:
    """Return up to `limit` stored secrets of all workspaces with ids above `key`, locked."""
    query = _SELECT.add_columns(table.c.sealed).where(table.c.sealed.is_not(None))
    if key is not None:
        query = query.where(table.c.id > key)
    return read_all(connection, query.order_by(table.c.id).limit(limit).with_for_update(), _sealed)


def reseal(connection: Connection, secret_id: UUID, sealed: bytes) -> None:
    """Replace the encrypted form of the same value."""
    connection.execute(update(table).where(table.c.id == secret_id).values(sealed=sealed))
