"""Bulk jobs: their rows, the guarded changes of their status, and the outcomes of executions.

The ids of a job's executions are on its row, in one array, the newest first. `position` says how
many of them have an outcome. A batch is one transaction: it locks the job, changes executions,
inserts their outcomes and moves `position` on (docs/adr/0068).
"""

from collections import Counter
from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import Connection, func, insert, select, text

from celeriac.db import spans
from celeriac.db.paging import columns, given, newest, read_all, read_one, reader, written_out
from celeriac.db.schema.bulk_jobs import bulk_job_items as items
from celeriac.db.schema.bulk_jobs import bulk_jobs as table
from celeriac.domain.accounts import Actor
from celeriac.domain.bulk_actions import (
    ACTIVE_JOBS,
    BULK_TRANSITIONS,
    BulkOutcome,
    BulkStatus,
    BulkTransition,
)
from celeriac.domain.bulk_jobs import BulkItem, BulkJob, NewBulkJob
from celeriac.domain.executions.states import Status
from celeriac.kit.json_types import dumps

_SELECT = columns(BulkJob, table)
_job = reader(BulkJob)
_ITEM = columns(BulkItem, items)
_item = reader(BulkItem)


def add(
    connection: Connection,
    job_id: UUID,
    actor: Actor,
    new: NewBulkJob,
    scope: Sequence[UUID],
    *,
    more: bool,
) -> None:
    """Insert a preview of the executions `scope`, the newest first."""
    values = {
        "id": job_id,
        "workspace_id": actor.workspace_id,
        "owner_id": actor.user_id,
        "created_by": actor.name,
        "role": actor.role.value,
        "request_id": actor.request_id,
        "action": new.action.value,
        "arguments": new.arguments,
        "filter": new.given,
        "status": BulkStatus.PREVIEW.value,
        "total": len(scope),
        "more": more,
        "scope": list(scope),
    }
    connection.execute(insert(table).values(**values))


_DROP_PREVIEWS = text("""
DELETE FROM bulk_jobs WHERE status = 'preview' AND id IN (
    SELECT id FROM bulk_jobs
    WHERE workspace_id = :workspace_id AND owner_id = :owner_id AND status = 'preview'
    ORDER BY id DESC OFFSET :kept)
""")
_EXPIRE_PREVIEWS = text("""
DELETE FROM bulk_jobs
WHERE status = 'preview' AND created_at < now() - make_interval(secs => :seconds)
""")


def drop_previews(connection: Connection, *, workspace_id: UUID, owner_id: UUID, kept: int) -> None:
    """Delete a user's previews in a workspace, except for the newest."""
    parameters = {"workspace_id": workspace_id, "owner_id": owner_id, "kept": kept}
    connection.execute(_DROP_PREVIEWS, parameters)


def expire_previews(connection: Connection, *, seconds: float) -> int:
    """Delete previews that are older than `seconds`; return how many."""
    return connection.execute(_EXPIRE_PREVIEWS, {"seconds": seconds}).rowcount


def get(
    connection: Connection, job_id: UUID, *, workspace: UUID | None, lock: bool = False
) -> BulkJob | None:
    """Return a job of `workspace` (None: of any), or None; `lock` locks it for a change."""
    query = given(_SELECT.where(table.c.id == job_id), (table.c.workspace_id, workspace))
    return read_one(connection, query.with_for_update() if lock else query, _job)


def find(
    connection: Connection, *, workspace: UUID, before: UUID | None, limit: int
) -> list[BulkJob]:
    """Return up to `limit` jobs of a workspace older than `before`, the newest first.

    Previews are not among them.
    """
    query = _SELECT.where(table.c.workspace_id == workspace, table.c.status != BulkStatus.PREVIEW)
    return read_all(connection, newest(query, table.c.id, before=before, limit=limit), _job)


def active(connection: Connection, workspace_id: UUID) -> int:
    """Return how many jobs of a workspace have not ended."""
    query = select(func.count()).where(
        table.c.workspace_id == workspace_id,
        table.c.status.in_([written_out(each, table.c.status) for each in sorted(ACTIVE_JOBS)]),
    )
    return int(connection.execute(query).scalar_one())


def find_items(
    connection: Connection,
    job_id: UUID,
    *,
    outcomes: Sequence[BulkOutcome] = (),
    before: UUID | None,
    limit: int,
) -> list[BulkItem]:
    """Return up to `limit` outcomes of a job, the newest executions first."""
    query = _ITEM.where(items.c.job_id == job_id)
    if outcomes:
        listed = [written_out(each, items.c.outcome) for each in dict.fromkeys(outcomes)]
        query = query.where(items.c.outcome.in_(listed))
    query = newest(query, items.c.execution_id, before=before, limit=limit)
    return read_all(connection, query, _item)


_MOVE = {
    transition: text(f"""
UPDATE bulk_jobs
SET status = '{target}',
    started_at = CASE WHEN '{target}' = 'pending' THEN now() ELSE started_at END,
    completed_at = {"now()" if target.terminal else "NULL"},
    stopped_by = coalesce(CAST(:stopped_by AS text), stopped_by),
    error = coalesce(CAST(:error AS text), error)
WHERE id = :id AND status IN ({", ".join(f"'{each}'" for each in sorted(sources))})
RETURNING id
""")  # noqa: S608 - put together from constants
    for transition, (sources, target) in BULK_TRANSITIONS.items()
}


def move(
    connection: Connection,
    job_id: UUID,
    transition: BulkTransition,
    *,
    stopped_by: str | None = None,
    error: str | None = None,
) -> bool:
    """Change the status of a job; False if it may not make this transition."""
    parameters = {"id": job_id, "stopped_by": stopped_by, "error": error}
    return connection.execute(_MOVE[transition], parameters).first() is not None


_STATUSES = text(f"""
SELECT status, count(*) FROM executions WHERE {spans.given("id")} GROUP BY status
""")  # noqa: S608 - put together from constants


def statuses(connection: Connection, execution_ids: Sequence[UUID]) -> dict[Status, int]:
    """Return how many of the executions have each status."""
    rows = connection.execute(_STATUSES, spans.of(execution_ids))
    return {Status(row[0]): int(row[1]) for row in rows}


_DUE = text("""
SELECT id FROM (
    SELECT id,
           row_number() OVER (PARTITION BY workspace_id ORDER BY worked_at NULLS FIRST, id)
               AS place,
           max(worked_at) OVER (PARTITION BY workspace_id) AS last
    FROM bulk_jobs
    WHERE status IN ('pending', 'running') AND action = ANY (CAST(:actions AS text[]))) AS job
WHERE place = 1
ORDER BY last NULLS FIRST, id
LIMIT :limit
""")


def due(connection: Connection, *, actions: Collection[str], limit: int) -> list[UUID]:
    """Return the next job of up to `limit` workspaces, that which has waited longest first.

    Only jobs of these actions: others are of a later release.
    """
    return list(connection.execute(_DUE, {"actions": list(actions), "limit": limit}).scalars())


_NEXT = text("""
SELECT unnest(scope[position + 1 : position + CAST(:limit AS integer)])
FROM bulk_jobs WHERE id = :id
""")


def next_ids(connection: Connection, job_id: UUID, *, limit: int) -> list[UUID]:
    """Return up to `limit` executions of a job that have no outcome yet."""
    return list(connection.execute(_NEXT, {"id": job_id, "limit": limit}).scalars())


_LOCK = text("""
SELECT set_config('lock_timeout', '1s', true) FROM (
    SELECT FROM bulk_jobs
    WHERE id = :id AND position = :position AND status = 'running'
    FOR UPDATE SKIP LOCKED) AS job
""")


def lock(connection: Connection, job_id: UUID, *, position: int) -> bool:
    """Lock a running job whose next batch begins at `position`.

    False if another keeper works on it or has done that batch, or if it was stopped. Later
    statements of the transaction wait a second at most for other locks: the jobs of other
    workspaces must not wait for somebody who has locked an execution of this one.
    """
    parameters = {"id": job_id, "position": position}
    return connection.execute(_LOCK, parameters).first() is not None


_RECORD = text("""
INSERT INTO bulk_job_items (job_id, execution_id, new_execution_id, outcome, code, message)
SELECT :id, i.* FROM unnest(CAST(:ids AS uuid[]), CAST(:new_ids AS uuid[]),
                            CAST(:outcomes AS text[]), CAST(:codes AS text[]),
                            CAST(:messages AS text[])) AS i
""")
_ADVANCE = text("""
UPDATE bulk_jobs
SET position = position + :number, done = done + :done, skipped = skipped + :skipped,
    failed = failed + :failed, reasons = CAST(:reasons AS json), worked_at = clock_timestamp()
WHERE id = :id
""")


def record(connection: Connection, job: BulkJob, outcomes: Sequence[BulkItem]) -> None:
    """Store the outcomes of the next executions of a locked job, and count them."""
    parameters: dict[str, object] = {
        "id": job.id,
        "ids": [each.execution_id for each in outcomes],
        "new_ids": [each.new_execution_id for each in outcomes],
        "outcomes": [each.outcome.value for each in outcomes],
        "codes": [each.code for each in outcomes],
        "messages": [each.message for each in outcomes],
    }
    connection.execute(_RECORD, parameters)
    count = Counter(each.outcome for each in outcomes)
    reasons = Counter(job.reasons)
    reasons.update(each.code for each in outcomes if each.code is not None)
    parameters = {
        "id": job.id,
        "number": len(outcomes),
        "reasons": dumps(dict(reasons)),
        **{each.value: count[each] for each in BulkOutcome},
    }
    connection.execute(_ADVANCE, parameters)


_WAITED = text("UPDATE bulk_jobs SET worked_at = clock_timestamp() WHERE id = :id")


def waited(connection: Connection, job_id: UUID) -> None:
    """Let the others go first: the next batch of this job could not be worked on."""
    connection.execute(_WAITED, {"id": job_id})


_DELETE_ITEMS = text("""
DELETE FROM bulk_job_items WHERE (job_id, execution_id) IN (
    SELECT i.job_id, i.execution_id
    FROM bulk_jobs j JOIN bulk_job_items i ON i.job_id = j.id
    WHERE j.id < :bound AND j.completed_at < now() - make_interval(secs => :seconds)
    LIMIT :limit)
""")
_DELETE_JOBS = text("""
DELETE FROM bulk_jobs WHERE id IN (
    SELECT j.id FROM bulk_jobs j
    WHERE j.id < :bound AND j.completed_at < now() - make_interval(secs => :seconds)
      AND NOT EXISTS (SELECT FROM bulk_job_items i WHERE i.job_id = j.id)
    ORDER BY j.id
    LIMIT :limit)
""")


def delete_old(connection: Connection, *, bound: UUID, seconds: float, limit: int) -> int:
    """Delete jobs that ended more than `seconds` ago, made before `bound`, and their outcomes.

    Up to `limit` outcomes, then up to `limit` jobs without any; returns how many rows those were.
    """
    parameters = {"bound": bound, "seconds": seconds, "limit": limit}
    count = connection.execute(_DELETE_ITEMS, parameters).rowcount
    return count + connection.execute(_DELETE_JOBS, parameters).rowcount
