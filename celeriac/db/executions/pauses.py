"""Pauses: their rows, and the executions that are set aside and released because of them."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, Select, delete, or_, select
from sqlalchemy.dialects.postgresql import insert

from celeriac.db import spans
from celeriac.db.executions.eligible import unexpired
from celeriac.db.executions.guards import kept_with_guards, with_guards
from celeriac.db.executions.paused import paused, slots_useless, work_paused
from celeriac.db.paging import columns, newest, read_all, read_one, reader
from celeriac.db.schema.accounts import workspaces
from celeriac.db.schema.catalog import tasks, workflows
from celeriac.db.schema.executions import OF_WORKFLOW
from celeriac.db.schema.limits import execution_limits, limits
from celeriac.db.schema.pauses import pauses as table
from celeriac.db.schema.workflows import workflow_runs
from celeriac.domain.executions.model import Execution, Message
from celeriac.domain.executions.pauses import Pause, PauseScope, PauseTarget
from celeriac.domain.executions.states import Held, Transition
from celeriac.domain.tasks import Priority
from celeriac.kit.ids import uuid7

_SELECT = (
    columns(
        Pause,
        table,
        task_name=tasks.c.name,
        workspace_name=workspaces.c.name,
        workflow_name=workflows.c.name,
        limit_name=limits.c.name,
    )
    .select_from(table)
    .outerjoin(workflows, workflows.c.id == table.c.workflow_id)
    .outerjoin(limits, limits.c.id == table.c.limit_id)
    .outerjoin(tasks, tasks.c.id == table.c.task_id)
    .outerjoin(workspaces, workspaces.c.id == table.c.workspace_id)
)
_pause = reader(Pause)


def add(
    connection: Connection,
    target: PauseTarget,
    *,
    workspace_id: UUID | None,
    owner_id: UUID,
    created_by: str,
    reason: str,
) -> bool:
    """Insert a pause; return False if its target is paused already."""
    statement = (
        insert(table)
        .values(
            id=uuid7(),
            scope=target.scope.value,
            queue=target.queue,
            task_id=target.task_id,
            worker=target.worker,
            workflow_id=target.workflow_id,
            limit_id=target.limit_id,
            key=target.key,
            workspace_id=workspace_id,
            reason=reason,
            owner_id=owner_id,
            created_by=created_by,
        )
        .on_conflict_do_nothing()
        .returning(table.c.id)
    )
    return connection.execute(statement).first() is not None


def of_target(
    connection: Connection, target: PauseTarget, *, workspace_id: UUID | None
) -> Pause | None:
    """Return the pause of a target, or None."""
    query = _SELECT.where(
        table.c.scope == target.scope.value,
        table.c.queue.is_not_distinct_from(target.queue),
        table.c.task_id.is_not_distinct_from(target.task_id),
        table.c.worker.is_not_distinct_from(target.worker),
        table.c.workflow_id.is_not_distinct_from(target.workflow_id),
        table.c.limit_id.is_not_distinct_from(target.limit_id),
        table.c.key.is_not_distinct_from(target.key),
        table.c.workspace_id.is_not_distinct_from(workspace_id),
    )
    return read_one(connection, query, _pause)


def _visible(query: Select[tuple[object, ...]], workspace: UUID) -> Select[tuple[object, ...]]:
    return query.where(or_(table.c.workspace_id.is_(None), table.c.workspace_id == workspace))


def get(
    connection: Connection, pause_id: UUID, *, workspace: UUID, lock: bool = False
) -> Pause | None:
    """Return a pause of `workspace`, a queue or the system, or None; `lock` locks it."""
    query = _visible(_SELECT, workspace).where(table.c.id == pause_id)
    return read_one(connection, query.with_for_update(of=table) if lock else query, _pause)


def find(
    connection: Connection, *, workspace: UUID, before: UUID | None, limit: int
) -> list[Pause]:
    """Return up to `limit` pauses older than `before`, the newest first; see `get`."""
    query = newest(_visible(_SELECT, workspace), table.c.id, before=before, limit=limit)
    return read_all(connection, query, _pause)


def of_execution(connection: Connection, execution: Execution) -> list[Pause]:
    """Return the pauses that are about an execution, the widest first.

    Those of limits and keys are only about what waits for slots.
    """
    about = [
        table.c.scope == PauseScope.SYSTEM,
        table.c.queue == execution.queue,
        table.c.task_id == execution.task_id,
        (table.c.scope == PauseScope.WORKSPACE) & (table.c.workspace_id == execution.workspace_id),
    ]
    if execution.workflow_run_id is not None:
        of_run = select(workflow_runs.c.workflow_id).where(
            workflow_runs.c.id == execution.workflow_run_id
        )
        about.append(table.c.workflow_id.in_(of_run))
    if execution.held is Held.LIMIT:
        own = select(execution_limits.c.limit_id).where(
            execution_limits.c.execution_id == execution.id
        )
        keys = table.c.key.in_(execution.limit_keys or ())
        about += [
            table.c.limit_id.in_(own),
            keys & (table.c.workspace_id == execution.workspace_id),
        ]
    query = _SELECT.where(or_(*about))
    order = list(PauseScope)
    return sorted(read_all(connection, query, _pause), key=lambda each: order.index(each.scope))


def of_worker(connection: Connection, name: str) -> bool:
    """Whether the worker of this name is paused."""
    return connection.execute(select(table.c.id).where(table.c.worker == name)).first() is not None


def count(connection: Connection, scope: PauseScope, *, workspace: UUID | None) -> int:
    """Return how many pauses of this scope there are; of `workspace` if it is given."""
    query = select(table.c.id).where(table.c.scope == scope.value)
    if workspace is not None:
        query = query.where(table.c.workspace_id == workspace)
    return len(connection.execute(query).all())


def remove(connection: Connection, pause_id: UUID) -> None:
    """Delete a pause, which the caller has locked."""
    connection.execute(delete(table).where(table.c.id == pause_id))


def remove_of_workflow(connection: Connection, workflow_id: UUID) -> None:
    """Delete the pause of a workflow, if there is one."""
    connection.execute(delete(table).where(table.c.workflow_id == workflow_id))


def remove_of_limits(connection: Connection, limit_ids: Sequence[UUID]) -> None:
    """Delete the pauses of limits."""
    connection.execute(delete(table).where(table.c.limit_id.in_(limit_ids)))


def remove_of_task(connection: Connection, task_id: UUID) -> None:
    """Delete the pause of a task, if there is one."""
    connection.execute(delete(table).where(table.c.task_id == task_id))


_SLOTS = """, slots AS (
    UPDATE execution_limits SET state = 'none'
    WHERE execution_id = ANY (ARRAY(
            SELECT id FROM moved WHERE held = 'paused' AND limit_keys IS NOT NULL))
      AND state <> 'none'
)"""
"""Gives back the slots of limits by key of what was `moved` aside."""

_GIVE_BACK = with_guards(
    f"""
WITH moved AS (
    UPDATE executions e
    SET status = {{unqueue_to}}, event_seq = event_seq + 1,
        held = CASE WHEN {slots_useless("e")} THEN 'paused' END
    WHERE id = :id AND status IN ({{unqueue_from}}) AND attempt = :attempt
      AND celery_task_id = CAST(:celery_task_id AS uuid) AND {unexpired("e")}
    RETURNING id, event_seq, attempt, held, limit_keys
){_SLOTS}
INSERT INTO events (execution_id, seq, type, attempt, data)
SELECT id, event_seq, 'unqueued', attempt, '{{{{"reason": "paused"}}}}'::jsonb FROM moved
""",
    unqueue=Transition.UNQUEUE,
)


def give_back(connection: Connection, message: Message) -> None:
    """Return the row of a message whose claim was refused for a pause to `pending`.

    Only if no other message of it was sent since, and it has not expired. It keeps its place in the
    order.
    """
    parameters = {
        "id": message.execution_id,
        "attempt": message.attempt,
        "celery_task_id": message.celery_task_id,
    }
    connection.execute(_GIVE_BACK, parameters)


_MOST_OWNERS = 100
_NOBODY = UUID(int=0)
_PRIORITIES = [int(each) for each in Priority]
_WAITS = "e.status IN ({queue_from}) AND e.held IS NULL"

_SET_ASIDE = kept_with_guards(
    f"""
WITH RECURSIVE spaces AS MATERIALIZED (
    SELECT DISTINCT workspace_id FROM pauses
    WHERE scope IN ('task', 'workflow', 'workspace')
), names AS (
    (SELECT e.queue FROM executions e
     WHERE {_WAITS} AND EXISTS (SELECT FROM spaces)
     ORDER BY e.queue LIMIT 1)
    UNION ALL
    SELECT (SELECT e.queue FROM executions e
            WHERE {_WAITS} AND e.queue > names.queue
            ORDER BY e.queue LIMIT 1)
    FROM names WHERE names.queue IS NOT NULL
), head AS (
    -- the first rows of each owner, as turns look for them
    SELECT first.id
    FROM spaces, names, unnest(CAST(:priorities AS smallint[])) AS level (priority),
    LATERAL (
        WITH RECURSIVE owners (owner_id) AS (
            SELECT CAST(:nobody AS uuid)
            UNION ALL
            SELECT next.owner_id FROM owners, LATERAL (
                SELECT e.owner_id FROM executions e
                WHERE {_WAITS} AND e.queue = names.queue AND e.priority = level.priority
                  AND e.workspace_id = spaces.workspace_id AND e.owner_id > owners.owner_id
                ORDER BY e.owner_id LIMIT 1) AS next
        )
        SELECT owner_id FROM owners OFFSET 1 LIMIT {_MOST_OWNERS}) AS owner,
    LATERAL (
        SELECT e.id, e.task_id, e.workflow_id, e.workspace_id FROM executions e
        WHERE {_WAITS} AND e.queue = names.queue AND e.priority = level.priority
          AND e.workspace_id = spaces.workspace_id AND e.owner_id = owner.owner_id
        ORDER BY e.available_at
        LIMIT :limit) AS first
    WHERE {work_paused("first")}
    LIMIT :limit
), locked AS (
    SELECT e.id FROM executions e
    WHERE e.id = ANY (ARRAY(SELECT id FROM head)) AND {_WAITS}
    FOR UPDATE SKIP LOCKED
), moved AS (
    UPDATE executions e SET held = 'paused'
    WHERE e.id = ANY (ARRAY(SELECT id FROM locked)) AND {_WAITS}
    RETURNING e.id, e.held, e.limit_keys, set_config('synchronous_commit', 'off', true)
){_SLOTS}
SELECT count(*) FROM moved
""",
    queue=Transition.QUEUE,
)


def set_aside(connection: Connection, *, limit: int) -> int:
    """Hold up to `limit` rows of paused tasks and workspaces that are in the way of others.

    Returns how many. In each queue and with each priority the first `limit` rows of each owner are
    looked at. Locked rows are skipped. The commit doesn't wait for the disk: rows that a crash has
    released are held again.
    """
    parameters = {"limit": limit, "priorities": _PRIORITIES, "nobody": _NOBODY}
    return int(connection.execute(_SET_ASIDE, parameters).scalar_one())


_RETURN_SLOTS = kept_with_guards(
    f"""
WITH idle AS (
    -- as many as there are slots in use, and none while no queue is paused
    SELECT DISTINCT l.execution_id FROM execution_limits l
    WHERE l.state = 'held'
      AND EXISTS (SELECT FROM pauses WHERE scope IN ('queue', 'system') OFFSET 0)
), locked AS (
    SELECT e.id FROM idle JOIN executions e ON e.id = idle.execution_id
    WHERE {_WAITS} AND {slots_useless("e")}
    LIMIT :limit
    FOR UPDATE OF e SKIP LOCKED
), moved AS (
    UPDATE executions e SET held = 'paused'
    WHERE e.id = ANY (ARRAY(SELECT id FROM locked)) AND {_WAITS}
    RETURNING e.id, e.held, e.limit_keys, set_config('synchronous_commit', 'off', true)
){_SLOTS}
SELECT count(*) FROM moved
""",
    queue=Transition.QUEUE,
)


def return_slots(connection: Connection, *, limit: int) -> int:
    """Set aside up to `limit` rows of paused queues that have slots of limits by key.

    They wait for slots again after the pause. Returns how many; see `set_aside`.
    """
    return int(connection.execute(_RETURN_SLOTS, {"limit": limit}).scalar_one())


_KEEP_FROM_SLOTS = with_guards(
    f"""
WITH moved AS (
    UPDATE executions e SET held = 'paused'
    WHERE {spans.given("e.id")} AND e.status IN ({{queue_from}}) AND e.held = 'limit'
    RETURNING e.id, e.held, e.limit_keys
){_SLOTS}
SELECT count(*) FROM moved
""",
    queue=Transition.QUEUE,
)


def keep_from_slots(connection: Connection, ids: Sequence[UUID]) -> None:
    """Set aside locked rows that wait for slots and that a pause is about."""
    connection.execute(_KEEP_FROM_SLOTS, spans.of(ids))


_MOST_KINDS = 20
_PAUSED = "e.status IN ({queue_from}) AND e.held = 'paused'"

_OF_WORKFLOW = OF_WORKFLOW.replace("workflow_id", "e.workflow_id")
_KIND = f"e.workspace_id, e.task_id, e.queue, {_OF_WORKFLOW}"
_OF_FREE = f"({_KIND}) = (free.workspace_id, free.task_id, free.queue, free.workflow_id)"
_FREE = f"""
WITH RECURSIVE kinds (workspace_id, task_id, queue, workflow_id) AS (
    -- the tasks, queues and workflows with held rows, with one look at the index for each
    (SELECT {_KIND} FROM executions e WHERE {_PAUSED} ORDER BY {_KIND} LIMIT 1)
    UNION ALL
    SELECT following.*
    FROM kinds, LATERAL (
        SELECT {_KIND} FROM executions e
        WHERE {_PAUSED} AND ({_KIND})
                            > (kinds.workspace_id, kinds.task_id, kinds.queue, kinds.workflow_id)
        ORDER BY {_KIND} LIMIT 1) AS following
), free AS (
    SELECT kinds.* FROM kinds
    WHERE NOT {paused("kinds")}
    LIMIT {_MOST_KINDS}
)"""
"""The tasks and queues with rows that were set aside and that no pause is about any more."""

_RELEASE = kept_with_guards(
    f"""{_FREE}, due AS (
    SELECT picked.id
    FROM free, LATERAL (
        SELECT e.id, e.priority, e.available_at FROM executions e
        WHERE {_PAUSED} AND {_OF_FREE}
        ORDER BY e.priority DESC, e.available_at
        LIMIT :limit
        FOR UPDATE SKIP LOCKED) AS picked
    ORDER BY picked.priority DESC, picked.available_at
    LIMIT :limit
), released AS (
    -- what has limits by key waits for its slots then (`release_due`)
    UPDATE executions e
    SET held = CASE WHEN e.available_at > now() OR e.limit_keys IS NOT NULL THEN 'time' END
    WHERE e.id = ANY (ARRAY(SELECT id FROM due)) AND {_PAUSED}
    RETURNING set_config('synchronous_commit', 'off', true)
)
SELECT count(*) FROM released
""",
    queue=Transition.QUEUE,
)


def release(connection: Connection, *, limit: int) -> int:
    """Release up to `limit` rows that were set aside and that no pause is about any more.

    Those of the highest priority first, and of these the longest due. Returns how many. They keep
    their places in the order. The commit doesn't wait for the disk, as in `set_aside`.
    """
    return int(connection.execute(_RELEASE, {"limit": limit}).scalar_one())


_LEFT = kept_with_guards(
    f"""{_FREE}
SELECT count(*) FROM (
    SELECT FROM free, LATERAL (
        SELECT FROM executions e
        WHERE {_PAUSED} AND {_OF_FREE}
        LIMIT :most) AS one
    LIMIT :most) AS set_aside
""",
    queue=Transition.QUEUE,
)


def left(connection: Connection, *, most: int) -> int:
    """Return how many rows `release` would release, counted up to `most`."""
    return int(connection.execute(_LEFT, {"most": most}).scalar_one())
