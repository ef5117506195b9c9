"""Inbound hooks of workspaces."""

from typing import Any
from uuid import UUID

from sqlalchemy import (
    Connection,
    Interval,
    Select,
    cast,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from celeriac.db.paging import columns, newest, read_all, read_one, reader
from celeriac.db.schema.accounts import memberships, users
from celeriac.db.schema.catalog import tasks, workflows
from celeriac.db.schema.hooks import hooks as table
from celeriac.domain.accounts import Role
from celeriac.domain.hooks.model import CalledHook, Hook, StoredSecret, Verification
from celeriac.kit.json_types import JsonObject

_SELECT = (
    columns(
        Hook,
        table,
        when=table.c.condition,
        given_secret=table.c.secret_sealed.is_not(None),
        task_name=tasks.c.name,
        workflow_name=workflows.c.name,
    )
    .select_from(table)
    .outerjoin(tasks, tasks.c.id == table.c.task_id)
    .outerjoin(workflows, workflows.c.id == table.c.workflow_id)
)
_hook = reader(Hook)


def add(
    connection: Connection,
    hook_id: UUID,
    *,
    workspace_id: UUID,
    owner_id: UUID,
    name: str | None,
    task_id: UUID | None,
    workflow_id: UUID | None,
    description: str,
    verification: Verification,
    mapping: JsonObject | None,
    when: str | None,
    per_minute: int,
    sealed: bytes | None,
) -> bool:
    """Insert a hook with its first secret, `sealed` if given; False if the name is taken."""
    values = {
        "id": hook_id,
        "workspace_id": workspace_id,
        "owner_id": owner_id,
        "name": name,
        "task_id": task_id,
        "workflow_id": workflow_id,
        "description": description,
        "verification": verification.value,
        "mapping": mapping,
        "condition": when,
        "per_minute": per_minute,
        "secret_sealed": sealed,
    }
    statement = insert(table).values(**values).on_conflict_do_nothing().returning(table.c.id)
    return connection.execute(statement).first() is not None


def id_of_name(connection: Connection, name: str, *, workspace: UUID) -> UUID | None:
    """Return the id of the hook that is named so in `workspace`, or None."""
    query = select(table.c.id).where(table.c.workspace_id == workspace, table.c.name == name)
    return connection.execute(query).scalar_one_or_none()


def get(
    connection: Connection, hook_id: UUID, *, workspace: UUID, lock: bool = False
) -> Hook | None:
    """Return a hook of `workspace`, or None; `lock` locks it for a change."""
    query = _SELECT.where(table.c.id == hook_id, table.c.workspace_id == workspace)
    return read_one(connection, query.with_for_update(of=table) if lock else query, _hook)


def sealed_secret(connection: Connection, hook_id: UUID) -> bytes | None:
    """Return the current secret of a hook as it is stored; None if it was not given."""
    query = select(table.c.secret_sealed).where(table.c.id == hook_id)
    return _bytes(connection.execute(query).scalar_one())


def find(connection: Connection, *, workspace: UUID, before: UUID | None, limit: int) -> list[Hook]:
    """Return up to `limit` hooks of a workspace older than `before`, the newest first."""
    query = _SELECT.where(table.c.workspace_id == workspace)
    return read_all(connection, newest(query, table.c.id, before=before, limit=limit), _hook)


def count(connection: Connection, workspace_id: UUID) -> int:
    """Return how many hooks a workspace has."""
    query = select(func.count()).where(table.c.workspace_id == workspace_id)
    return int(connection.execute(query).scalar_one())


def change(
    connection: Connection,
    hook_id: UUID,
    *,
    task_id: UUID | None,
    workflow_id: UUID | None,
    description: str,
    mapping: JsonObject | None,
    when: str | None,
    per_minute: int,
) -> None:
    """Change a hook."""
    values: dict[str, object] = {
        "task_id": task_id,
        "workflow_id": workflow_id,
        "description": description,
        "mapping": mapping,
        "condition": when,
        "per_minute": per_minute,
        "updated_at": func.now(),
    }
    connection.execute(update(table).where(table.c.id == hook_id).values(**values))


def set_active(connection: Connection, hook_id: UUID, *, active: bool) -> None:
    """Pause a hook, or resume it."""
    values = {"active": active, "updated_at": func.now()}
    connection.execute(update(table).where(table.c.id == hook_id).values(**values))


def rotate(connection: Connection, hook_id: UUID, *, sealed: bytes | None, hours: float) -> None:
    """Give a hook its next secret; the one until now stays valid for `hours`."""
    values: dict[str, object] = {
        "secret_number": table.c.secret_number + 1,
        "secret_sealed": sealed,
        "previous_number": table.c.secret_number,
        "previous_sealed": table.c.secret_sealed,
        "previous_until": func.now() + _hours(hours),
        "updated_at": func.now(),
    }
    connection.execute(update(table).where(table.c.id == hook_id).values(**values))


def _hours(hours: float) -> Any:
    return cast(func.make_interval(0, 0, 0, 0, 0, 0, literal(hours * 3600.0)), Interval)


def delete(connection: Connection, hook_id: UUID) -> None:
    """Delete a hook; its deliveries stay until retention removes them."""
    connection.execute(table.delete().where(table.c.id == hook_id))


_CALLED: Select[Any] = (
    _SELECT.add_columns(
        table.c.secret_sealed,
        table.c.previous_number,
        table.c.previous_sealed,
        (table.c.previous_until > func.now()).label("overlaps"),
        users.c.name.label("owner_name"),
        users.c.disabled_at.is_not(None).label("owner_disabled"),
        memberships.c.role.label("owner_role"),
        func.extract("epoch", func.now()).label("at"),
    )
    .outerjoin(users, users.c.id == table.c.owner_id)
    .outerjoin(
        memberships,
        (memberships.c.workspace_id == table.c.workspace_id)
        & (memberships.c.user_id == table.c.owner_id),
    )
)


def called(connection: Connection, hook_id: UUID) -> CalledHook | None:
    """Return a hook that is called, whatever its workspace, with its secrets and its maker."""
    return read_one(connection, _CALLED.where(table.c.id == hook_id), _called)


def _called(row: Any) -> CalledHook:
    hook = _hook(row)
    secrets = [StoredSecret(hook.secret_number, _bytes(row.secret_sealed))]
    if row.overlaps:
        secrets.append(StoredSecret(row.previous_number, _bytes(row.previous_sealed)))
    return CalledHook(
        hook,
        tuple(secrets),
        row.owner_name,
        bool(row.owner_disabled),
        None if row.owner_role is None else Role(row.owner_role),
        float(row.at),
    )


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)
