"""The birth of executions: rows in `pending`, or in `queued` where they may be sent at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from celeriac.db.transitions.guards import guarded
from celeriac.domain.accounts import Actor
from celeriac.domain.execution import TriggerType
from celeriac.domain.options import NO_OPTIONS, RunOptions, stored_options
from celeriac.domain.states import Transition
from celeriac.domain.task import Priority
from celeriac.kit.ids import uuid7
from celeriac.kit.jsontypes import JsonObject, dumps, storable

_CREATE = guarded(
    """
WITH plan AS (
    SELECT t.id, due.at AS available_at,
           CASE WHEN due.at <= now() AND :window > (SELECT count(*) FROM (
                    SELECT FROM executions
                    WHERE status = {queue_to} AND queue = :queue AND queued_at IS NOT NULL
                    LIMIT :window) AS sent)
                AND NOT EXISTS (
                    SELECT
                    FROM generate_series(CAST(:priority AS int), CAST(:highest AS int)) AS level,
                    LATERAL (
                        SELECT FROM executions
                        WHERE status IN ({queue_from}) AND queue = :queue AND priority = level
                          AND available_at <= now()
                        LIMIT 1) AS due)
                THEN {queue_to} ELSE 'pending' END AS status
    FROM tasks t JOIN agents a ON a.id = t.agent_id,
         (SELECT greatest(now(), coalesce(CAST(:available_at AS timestamptz),
                                          now() + make_interval(secs => :delay_seconds))) AS at) due
    WHERE t.id = :task_id AND t.active AND t.current_version_id = :task_version_id
      AND a.current_version_id = :agent_version_id
), born AS (
    INSERT INTO executions (
        id, owner_id, task_id, task_version_id, agent_version_id, status, trigger_type,
        execution_mode, priority, queue, variables, origin_id, batch_id, request_id,
        session_id, options, available_at, max_crashes, queued_at, celery_task_id, event_seq)
    SELECT i.id, :owner_id, plan.id, :task_version_id, :agent_version_id, plan.status,
           :trigger_type, :execution_mode, :priority, :queue, i.variables, :origin_id,
           :batch_id, :request_id, :session_id, CAST(:options AS jsonb),
           plan.available_at, :max_crashes,
           CASE plan.status WHEN {queue_to} THEN now() END,
           CASE plan.status WHEN {queue_to} THEN gen_random_uuid()::text END,
           CASE plan.status WHEN {queue_to} THEN 2 ELSE 1 END
    FROM plan, ROWS FROM (unnest(CAST(:ids AS uuid[])),
                          jsonb_array_elements(CAST(:variables AS jsonb))) AS i (id, variables)
    RETURNING id, status, celery_task_id
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, 1, 'created', 0, CAST(:event AS jsonb) FROM born
    UNION ALL
    SELECT id, 2, 'queued', 0,
           jsonb_build_object('queue', CAST(:queue AS text), 'celery_task_id', celery_task_id)
    FROM born WHERE status = {queue_to}
), audited AS (
    INSERT INTO audit_logs (id, actor_id, actor, action, resource_type, resource_id, request_id,
                            details)
    SELECT :audit_id, :actor_id, :actor, 'execution.create', :audit_type, :audited_id,
           :request_id, jsonb_build_object('task_id', plan.id, 'count', cardinality(
               CAST(:ids AS uuid[])))
    FROM plan
)
SELECT celery_task_id FROM born
""",
    queue=Transition.QUEUE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExecutions:
    """One or many executions of one task that differ in their ids and variables alone."""

    ids: Sequence[UUID]
    variables: Sequence[JsonObject]
    task_id: UUID
    task_version_id: UUID
    agent_version_id: UUID
    queue: str
    priority: int
    max_crashes: int
    trigger_type: TriggerType
    execution_mode: str
    delay_seconds: float = 0.0
    available_at: datetime | None = None
    origin_id: UUID | None = None
    batch_id: UUID | None = None
    session_id: UUID | None = None
    options: RunOptions = NO_OPTIONS


@dataclass(frozen=True, slots=True)
class Created:
    """Stored executions; `celery_task_id` is that of a single one which is to be sent now."""

    celery_task_id: str | None


def create(
    connection: Connection, new: NewExecutions, actor: Actor, *, window: int
) -> Created | None:
    """Insert the executions with their first events and one audit entry, all or none.

    They are born `queued`, and must then be sent, where they are due by the database's clock, their
    queue has fewer than `window` messages out and no due row of at least their priority waits in
    it. A `window` of 0 makes them `pending` in any case.
    Returns None, having written nothing, when the task is gone or inactive or when its or its
    agent's current version is no longer the one named: the caller reads them again.
    """
    parameters = {
        "ids": list(new.ids),
        # one text: psycopg takes seconds, without a pause, to quote a large text within a list
        "variables": f"[{','.join(map(storable, new.variables))}]",
        "window": window,
        "owner_id": actor.user_id,
        "task_id": new.task_id,
        "task_version_id": new.task_version_id,
        "agent_version_id": new.agent_version_id,
        "trigger_type": new.trigger_type,
        "execution_mode": new.execution_mode,
        "priority": new.priority,
        "highest": max(Priority),
        "queue": new.queue,
        "origin_id": new.origin_id,
        "batch_id": new.batch_id,
        "request_id": actor.request_id,
        "session_id": new.session_id,
        "options": stored_options(new.options),
        "delay_seconds": new.delay_seconds,
        "available_at": new.available_at,
        "max_crashes": new.max_crashes,
        "event": dumps({"trigger_type": new.trigger_type, "by": actor.name}),
        "audit_id": uuid7(),
        "actor_id": actor.user_id,
        "actor": actor.name,
        "audit_type": "batch" if new.batch_id else "execution",
        "audited_id": str(new.batch_id or new.ids[0]),
    }
    row = connection.execute(_CREATE, parameters).first()
    return None if row is None else Created(row[0])
