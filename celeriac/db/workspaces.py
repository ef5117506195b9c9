"""Workspaces and their members."""

from uuid import UUID

from sqlalchemy import Connection, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from celeriac.db.paging import columns, given, newest, read_all, read_one, reader
from celeriac.db.schema.accounts import api_keys, memberships, users
from celeriac.db.schema.accounts import workspaces as table
from celeriac.db.schema.saved_views import views
from celeriac.domain.accounts import Member, Role, Workspace
from celeriac.kit.ids import parse_uuid, uuid7

_LIVE = table.c.deleted_at.is_(None)
_SELECT = columns(Workspace, table).where(_LIVE)
_workspace = reader(Workspace)
_MEMBER = columns(Member, memberships, id=memberships.c.user_id, name=users.c.name).join_from(
    memberships, users, users.c.id == memberships.c.user_id
)
_member = reader(Member)


def add(connection: Connection, name: str) -> UUID | None:
    """Insert a workspace without members and return its id, or None if the name is taken."""
    statement = (
        insert(table)
        .values(id=uuid7(), name=name)
        .on_conflict_do_nothing(index_elements=["name"], index_where=_LIVE)
        .returning(table.c.id)
    )
    return connection.execute(statement).scalar_one_or_none()


def find_one(connection: Connection, reference: str) -> Workspace | None:
    """Return the workspace with this name or id, or None; a deleted one is not found."""
    key = parse_uuid(reference)
    query = _SELECT.where(table.c.name == reference if key is None else table.c.id == key)
    return read_one(connection, query, _workspace)


def find(
    connection: Connection,
    *,
    member: UUID | None,
    only: UUID | None,
    before: UUID | None,
    limit: int,
) -> list[Workspace]:
    """Return up to `limit` workspaces older than `before`, the newest first.

    Those of which the user `member` is a member (None: all), or the one with the id `only`.
    """
    query = given(_SELECT, (table.c.id, only))
    if member is not None:
        own = select(memberships.c.workspace_id).where(memberships.c.user_id == member)
        query = query.where(table.c.id.in_(own))
    return read_all(connection, newest(query, table.c.id, before=before, limit=limit), _workspace)


def lock(connection: Connection, workspace_id: UUID) -> bool:
    """Lock a workspace for a change of its members or limits, or its deletion.

    Until the transaction ends, and before the rows of members, tasks, workflows and limits. False
    if it is deleted.
    """
    query = select(table.c.id).where(table.c.id == workspace_id, _LIVE)
    return connection.execute(query.with_for_update(key_share=True)).first() is not None


_SWITCH_OFF = text("""
UPDATE tasks SET active = false WHERE workspace_id = :id AND active AND deleted_at IS NULL
""")


def switch_off(connection: Connection, workspace_id: UUID) -> None:
    """Make all tasks of a workspace inactive: from the commit on nothing can be submitted."""
    connection.execute(_SWITCH_OFF, {"id": workspace_id})


KEPT = (
    "approvals",
    "artifacts",
    "audit_logs",
    "bulk_jobs",
    "celery_calls",
    "deliveries",
    "execution_ends",
    "execution_labels",
    "execution_limits",
    "execution_rates",
    "execution_rollups",
    "executions",
    "failure_groups",
    "file_sets",
    "hook_deliveries",
    "idempotency_keys",
    "objects",
    "run_limits",
    "sessions",
    "usage_days",
    "usage_deltas",
    "workflow_runs",
)
"""Tables of a workspace that its deletion leaves alone: what has happened in it."""

_DELETE_CATALOG = text("""
WITH ended_tasks AS (
    UPDATE tasks SET deleted_at = now(), active = false
    WHERE workspace_id = :id AND deleted_at IS NULL
), ended_agents AS (
    UPDATE agents SET deleted_at = now() WHERE workspace_id = :id AND deleted_at IS NULL
)
UPDATE workflows SET deleted_at = now() WHERE workspace_id = :id AND deleted_at IS NULL
""")

_DELETE = text("""
WITH gone_budgets AS (
    DELETE FROM budgets WHERE workspace_id = :id RETURNING id
), gone_windows AS (
    DELETE FROM budget_windows WHERE budget_id = ANY (ARRAY(SELECT id FROM gone_budgets))
), gone_cassettes AS (
    DELETE FROM cassettes WHERE workspace_id = :id
), ended_webhooks AS (
    UPDATE webhook_endpoints SET active = false, paused_reason = 'requested', updated_at = now()
    WHERE workspace_id = :id AND active
), gone_hooks AS (
    DELETE FROM hooks WHERE workspace_id = :id
), gone_schedules AS (
    DELETE FROM schedules WHERE workspace_id = :id RETURNING id
), ended_fires AS (
    UPDATE schedule_fires SET status = 'skipped', reason = 'deleted'
    WHERE schedule_id = ANY (ARRAY(SELECT id FROM gone_schedules)) AND status = 'waiting'
), ended_limits AS (
    UPDATE limits SET deleted_at = now(), look_at = now() + interval '120 seconds'
    WHERE workspace_id = :id AND deleted_at IS NULL
), gone_pauses AS (
    DELETE FROM pauses WHERE workspace_id = :id
), gone_views AS (
    DELETE FROM views WHERE workspace_id = :id
), gone_secrets AS (
    DELETE FROM secrets WHERE workspace_id = :id
), ended_invitations AS (
    UPDATE invitations SET revoked_at = now()
    WHERE workspace_id = :id AND accepted_at IS NULL AND revoked_at IS NULL
), gone_members AS (
    DELETE FROM memberships WHERE workspace_id = :id
), ended AS (
    UPDATE workspaces SET deleted_at = now() WHERE id = :id
)
UPDATE api_keys SET revoked_at = now() WHERE workspace_id = :id AND revoked_at IS NULL
RETURNING id
""")


def end(connection: Connection, workspace_id: UUID) -> list[UUID]:
    """Delete a workspace and all that is set up in it; return the ids of the keys that it had.

    What has happened in it stays until retention removes it (`KEPT`). The caller has locked it.
    """
    # before what belongs to tasks and workflows, as their own deletion does
    connection.execute(_DELETE_CATALOG, {"id": workspace_id})
    return list(connection.execute(_DELETE, {"id": workspace_id}).scalars())


_DELETED = """
SELECT left_over.id
FROM workspaces w, LATERAL (
    SELECT e.id FROM {table} e
    WHERE e.workspace_id = w.id AND {listed} AND e.completed_at IS NULL
      AND e.cancel_requested_at IS NULL
    LIMIT :limit) AS left_over
WHERE w.deleted_at > now() - make_interval(secs => CAST(:seconds AS double precision))
LIMIT :limit
"""
# The conditions `listed` begin with those of the indexes of a workspace's statuses. What belongs to
# a run, or to another execution, ends with that: a run that was cancelled may still clean up.
_LEFT_EXECUTIONS = text(
    _DELETED.format(
        table="executions",
        listed="e.status <> 'completed' AND e.max_crashes <> -1"
        " AND e.run_id IS NULL AND e.parent_id IS NULL",
    )
)
_LEFT_RUNS = text(
    _DELETED.format(
        table="workflow_runs",
        listed="e.status <> 'completed' AND e.status <> 'compensating' AND e.parent_run_id IS NULL",
    )
)


def left_executions(connection: Connection, *, seconds: float, limit: int) -> list[UUID]:
    """Return executions to cancel in workspaces that were deleted in the last `seconds`.

    A submission that began before the deletion was committed can't see it, and locks nothing.
    """
    parameters = {"seconds": seconds, "limit": limit}
    return list(connection.execute(_LEFT_EXECUTIONS, parameters).scalars())


def left_runs(connection: Connection, *, seconds: float, limit: int) -> list[UUID]:
    """Return runs of workflows to cancel; see `left_executions`."""
    return list(connection.execute(_LEFT_RUNS, {"seconds": seconds, "limit": limit}).scalars())


def member(
    connection: Connection, workspace_id: UUID, user_id: UUID, *, lock: bool = False
) -> Member | None:
    """Return a user's membership in a workspace, or None; `lock` locks it for a change."""
    query = _MEMBER.where(
        memberships.c.workspace_id == workspace_id, memberships.c.user_id == user_id
    )
    return read_one(connection, query.with_for_update(of=memberships) if lock else query, _member)


_ACTIVE = (
    select(memberships.c.role)
    .join_from(memberships, users, users.c.id == memberships.c.user_id)
    .where(users.c.disabled_at.is_(None))
)


def active_role(connection: Connection, workspace_id: UUID, user_id: UUID) -> Role | None:
    """Return the role of an enabled member of a workspace; None for anybody else."""
    query = _ACTIVE.where(
        memberships.c.workspace_id == workspace_id, memberships.c.user_id == user_id
    )
    role = connection.execute(query).scalar_one_or_none()
    return None if role is None else Role(role)


def has_other_admin(connection: Connection, workspace_id: UUID, user_id: UUID) -> bool:
    """Whether an enabled user besides `user_id` is an admin of the workspace.

    `lock` must have locked the workspace, so that two changes at once see each other.
    """
    query = _ACTIVE.where(
        memberships.c.workspace_id == workspace_id,
        memberships.c.user_id != user_id,
        memberships.c.role == Role.ADMIN,
    )
    return connection.execute(query.limit(1)).first() is not None


def members(
    connection: Connection, workspace_id: UUID, *, before: UUID | None, limit: int
) -> list[Member]:
    """Return up to `limit` members who joined Celeriac before `before`, the newest first."""
    query = _MEMBER.where(memberships.c.workspace_id == workspace_id)
    query = newest(query, memberships.c.user_id, before=before, limit=limit)
    return read_all(connection, query, _member)


def add_member(connection: Connection, workspace_id: UUID, user_id: UUID, role: Role) -> bool:
    """Add a member; False if the user is one already."""
    statement = (
        insert(memberships)
        .values(workspace_id=workspace_id, user_id=user_id, role=role.value)
        .on_conflict_do_nothing()
        .returning(memberships.c.user_id)
    )
    return connection.execute(statement).first() is not None


def change_member(connection: Connection, workspace_id: UUID, user_id: UUID, role: Role) -> None:
    """Change a member's role."""
    connection.execute(
        update(memberships)
        .where(memberships.c.workspace_id == workspace_id, memberships.c.user_id == user_id)
        .values(role=role.value)
    )


def remove_member(connection: Connection, workspace_id: UUID, user_id: UUID) -> list[UUID]:
    """Remove a member, their private views and their keys there; return the ids of the keys."""
    connection.execute(
        delete(views).where(
            views.c.workspace_id == workspace_id, views.c.owner_id == user_id, ~views.c.shared
        )
    )
    connection.execute(
        delete(memberships).where(
            memberships.c.workspace_id == workspace_id, memberships.c.user_id == user_id
        )
    )
    revoked = (
        update(api_keys)
        .where(
            api_keys.c.workspace_id == workspace_id,
            api_keys.c.user_id == user_id,
            api_keys.c.revoked_at.is_(None),
        )
        .values(revoked_at=func.now())
        .returning(api_keys.c.id)
    )
    return list(connection.execute(revoked).scalars())
