"""The birth of executions: rows in `pending`, due now or later."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.domain.accounts import Actor
from celeriac.domain.execution import TriggerType
from celeriac.kit.ids import uuid7
from celeriac.kit.jsontypes import JsonObject, dumps

_CREATE = text("""
WITH plan AS (
    SELECT t.id FROM tasks t JOIN agents a ON a.id = t.agent_id
    WHERE t.id = :task_id AND t.active AND t.current_version_id = :task_version_id
      AND a.current_version_id = :agent_version_id
), born AS (
    INSERT INTO executions (
        id, owner_id, task_id, task_version_id, agent_version_id, status, trigger_type,
        execution_mode, priority, queue, variables, origin_id, batch_id, request_id,
        available_at, max_crashes, event_seq)
    SELECT i.id, :owner_id, plan.id, :task_version_id, :agent_version_id, 'pending',
           :trigger_type, :execution_mode, :priority, :queue, i.variables::jsonb, :origin_id,
           :batch_id, :request_id, now() + make_interval(secs => :delay_seconds), :max_crashes, 1
    FROM plan, unnest(CAST(:ids AS uuid[]), CAST(:variables AS text[])) AS i (id, variables)
    RETURNING id
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, 1, 'created', 0, CAST(:event AS jsonb) FROM born
), audited AS (
    INSERT INTO audit_logs (id, actor_id, actor, action, resource_type, resource_id, request_id,
                            details)
    SELECT :audit_id, :actor_id, :actor, 'execution.create', :audit_type, :audited_id,
           :request_id, jsonb_build_object('task_id', plan.id, 'count', cardinality(
               CAST(:ids AS uuid[])))
    FROM plan
)
SELECT count(*) FROM born
""")


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
    origin_id: UUID | None = None
    batch_id: UUID | None = None


def create(connection: Connection, new: NewExecutions, actor: Actor) -> bool:
    """Insert the executions with their first event and one audit entry, all or none.

    Returns False, having written nothing, when the task is gone or inactive or when its or its
    agent's current version is no longer the one named: the caller reads them again.
    """
    parameters = {
        "ids": list(new.ids),
        "variables": [dumps(variables) for variables in new.variables],
        "owner_id": actor.user_id,
        "task_id": new.task_id,
        "task_version_id": new.task_version_id,
        "agent_version_id": new.agent_version_id,
        "trigger_type": new.trigger_type,
        "execution_mode": new.execution_mode,
        "priority": new.priority,
        "queue": new.queue,
        "origin_id": new.origin_id,
        "batch_id": new.batch_id,
        "request_id": actor.request_id,
        "delay_seconds": new.delay_seconds,
        "max_crashes": new.max_crashes,
        "event": dumps({"trigger_type": new.trigger_type, "by": actor.name}),
        "audit_id": uuid7(),
        "actor_id": actor.user_id,
        "actor": actor.name,
        "audit_type": "batch" if new.batch_id else "execution",
        "audited_id": str(new.batch_id or new.ids[0]),
    }
    return bool(connection.execute(_CREATE, parameters).scalar_one() == len(new.ids))
