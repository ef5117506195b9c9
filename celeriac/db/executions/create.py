"""Creates executions, and stores idempotency keys."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection, TextClause, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from celeriac import traces
from celeriac.db.executions.eligible import room
from celeriac.db.executions.guards import kept_with_guards
from celeriac.db.executions.paused import work_paused
from celeriac.db.partitions import ensure, forget
from celeriac.db.schema.executions import idempotency_keys as table
from celeriac.domain.accounts import Actor
from celeriac.domain.executions.limits import limits_of
from celeriac.domain.executions.model import (
    Cause,
    ExecutionSpec,
    Message,
    QueuedMessage,
    SubmitRequest,
)
from celeriac.domain.executions.options import RunOptions, stored_options
from celeriac.domain.executions.states import Held, Transition
from celeriac.domain.limits import KeyedLimit
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonObject, dumps, storable

_STATEMENT = """
WITH plan AS (
    SELECT t.id, a.id AS agent_id, due.at AS available_at,
           {status} AS status,
           coalesce(CAST(:held AS text), CASE WHEN due.at > now() THEN 'time'{or_limit} END) AS held
    FROM tasks t JOIN agents a ON a.id = t.agent_id JOIN workspaces w ON w.id = t.workspace_id,
         (SELECT greatest(now(), coalesce(CAST(:available_at AS timestamptz),
                                          now() + make_interval(secs => :delay_seconds))) AS at)
             AS due,
         LATERAL (SELECT {work_paused} AS paused
                  FROM (SELECT t.id AS task_id, t.workspace_id,
                               CAST(:workflow_id AS uuid) AS workflow_id) AS given) AS stopped
    WHERE t.id = :task_id AND t.active AND t.current_version_id = :task_version_id
      AND a.current_version_id = :agent_version_id AND w.limits_revision = :limits_revision
){keyed}, born AS (
    INSERT INTO executions (
        id, workspace_id, owner_id, task_id, task_version_id, agent_id, agent_version_id, status,
        trigger_type, execution_mode, priority, queue, origin_id, batch_id, request_id, session_id,
        options, available_at, expires_at, held, max_crashes, queued_at, celery_task_id, event_seq,
        parent_id, parent_step, root_id, run_id, workflow_id, step_no, item_no,
        traceparent{limit_keys}{labels})
    SELECT i.id, :workspace_id, :owner_id, plan.id, :task_version_id, plan.agent_id,
           :agent_version_id, plan.status, :trigger_type, :execution_mode, :priority, :queue,
           i.origin_id, :batch_id, :request_id, :session_id, CAST(:options AS jsonb),
           plan.available_at,
           coalesce(CAST(:expires_at AS timestamptz), now() + make_interval(secs => :expires_in)),
           {held}, :max_crashes,
           CASE plan.status WHEN {queue_to} THEN now() END,
           CASE plan.status WHEN {queue_to} THEN i.id END,
           CASE plan.status WHEN {queue_to} THEN 2 ELSE 1 END,
           CAST(:parent_id AS uuid), CAST(:parent_step AS int), CAST(:root_id AS uuid),
           CAST(:run_id AS uuid), CAST(:workflow_id AS uuid), CAST(:step_no AS smallint), i.item_no,
           CAST(:traceparent AS text){keys}{label_values}
    FROM plan, ROWS FROM (unnest(CAST(:ids AS uuid[])),
                          unnest(CAST(:origin_ids AS uuid[])),
                          unnest(CAST(:item_nos AS int[]))) AS i (id, origin_id, item_no){with_keys}
    RETURNING id, status, celery_task_id, held
){lined}{labelled}, given AS (
    INSERT INTO execution_inputs (execution_id, variables)
    SELECT i.id, i.variables
    FROM plan, ROWS FROM (unnest(CAST(:ids AS uuid[])),
                          json_array_elements(CAST(:variables AS json))) AS i (id, variables)
    WHERE CAST(i.variables AS text) <> '{{}}'
), logged AS (
    INSERT INTO events (execution_id, seq, type, attempt, data)
    SELECT id, 1, 'created', 0, CAST(:event AS jsonb) FROM born
    UNION ALL
    SELECT id, 2, 'queued', 0,
           jsonb_build_object('queue', CAST(:queue AS text), 'celery_task_id', celery_task_id)
    FROM born WHERE status = {queue_to}
), audited AS (
    INSERT INTO audit_logs (id, workspace_id, actor_id, actor, action, resource_type, resource_id,
                            request_id, details)
    SELECT entry.id, :workspace_id, :actor_id, :actor, 'execution.create', :audit_type,
           entry.resource_id, :request_id,
           jsonb_build_object('task_id', plan.id, 'count', CAST(:audit_count AS int))
    FROM plan, ROWS FROM (unnest(CAST(:audit_ids AS uuid[])),
                          unnest(CAST(:audited_ids AS text[]))) AS entry (id, resource_id)
)
SELECT id, celery_task_id::text FROM born
"""

_STATUS = """CASE WHEN CAST(:held AS text) IS NULL AND due.at <= now() AND NOT stopped.paused
                     AND {room}
                THEN {queue_to} ELSE 'pending' END"""
_PARTS = {
    "room": room(":queue", priority=":priority", window=":window"),
    "work_paused": work_paused("given"),
}


_NAMES = ("status", "held", "or_limit", "keyed", "limit_keys", "keys", "with_keys", "lined",
          "labels", "label_values", "labelled")  # fmt: skip


def _statement(**parts: str) -> TextClause:
    filled = _STATEMENT
    parts.setdefault("held", "plan.held")
    for name in _NAMES:
        filled = filled.replace(f"{{{name}}}", parts.get(name, ""))
    return kept_with_guards(filled, _PARTS, queue=Transition.QUEUE)


_UNLIMITED = {"status": _STATUS, "or_limit": " WHEN stopped.paused THEN 'paused'"}

# Executions with limits by key: they wait for their slots before they are sent. Others of their
# batch may have none, if a limit of the workspace is not about them.
_LIMITED = {
    "status": "'pending'",
    "held": "CASE WHEN keyed.keys IS NOT NULL OR plan.held <> 'limit' THEN plan.held END",
    "or_limit": " ELSE 'limit'",
    "keyed": """
, its_limit AS (
    SELECT * FROM unnest(CAST(:limited_ids AS uuid[]), CAST(:keys AS text[]),
                         CAST(:maxima AS int[]), CAST(:policies AS text[]),
                         CAST(:intervals AS double precision[]), CAST(:bursts AS int[]),
                         CAST(:limit_ids AS uuid[]))
        AS l (id, key, max, policy, interval_seconds, burst, limit_id)
), keyed AS (
    SELECT id, array_agg(key ORDER BY key) AS keys FROM its_limit GROUP BY id
)""",
    "limit_keys": ", limit_keys",
    "keys": ", keyed.keys",
    "with_keys": """
         LEFT JOIN keyed ON keyed.id = i.id""",
    "lined": """
, lined AS (
    INSERT INTO execution_limits (execution_id, key, workspace_id, max, policy, state, place,
                                  interval_seconds, burst, limit_id)
    SELECT l.id, l.key, :workspace_id, l.max, l.policy,
           CASE WHEN born.held IS DISTINCT FROM 'limit' THEN 'none'
                WHEN l.key = keyed.keys[1] THEN 'waiting' ELSE 'elsewhere' END,
           :place, l.interval_seconds, l.burst, l.limit_id
    FROM its_limit l JOIN keyed ON keyed.id = l.id JOIN born ON born.id = l.id
)""",
}
_LABELLED = {
    "labels": ", labels",
    "label_values": ", CAST(:labels AS json)",
    "labelled": """
, labelled AS (
    INSERT INTO execution_labels (workspace_id, key, value, execution_id)
    SELECT :workspace_id, l.key, l.value, born.id
    FROM born, json_each_text(CAST(:labels AS json)) AS l (key, value)
)""",
}
_CREATE = {
    (limited, labelled): _statement(
        **(_LIMITED if limited else _UNLIMITED), **(_LABELLED if labelled else {})
    )
    for limited in (False, True)
    for labelled in (False, True)
}
"""By whether there are limits by key, and labels: who has none of both pays for none."""
_LAST_PLACE = 100
"""The place in a line of what has not begun, with the lowest priority."""


class StaleSpecError(Exception):
    """The task or its agent has changed: read them again."""


@dataclass(frozen=True, slots=True)
class Family:
    """The parent of new executions, the step that starts them, and the first of their tree."""

    parent_id: UUID
    step: int
    root_id: UUID


@dataclass(frozen=True, slots=True)
class StepItems:
    """The items of a workflow's step that new executions are, one each."""

    run_id: UUID
    workflow_id: UUID
    step_no: int
    numbers: Sequence[int]


@dataclass(frozen=True, slots=True)
class NewExecutions:
    """One or more executions of one task, which differ only in their ids and variables."""

    spec: ExecutionSpec
    request: SubmitRequest
    ids: Sequence[UUID]
    variables: Sequence[JsonObject]
    origin_ids: Sequence[UUID] = ()
    """The executions that they repeat; empty if they repeat none."""
    batch_id: UUID | None = None
    family: Family | None = None
    held: Held | None = None
    """Why they may not run yet, besides their time."""
    items: StepItems | None = None
    traceparent: str | None = field(default_factory=traces.traceparent)
    """Of the span that submits them; None while traces are off."""

    @property
    def audited(self) -> Sequence[UUID]:
        """What the audit trail names: the batch, or each execution, but no step of a run."""
        if self.items is not None:
            return []
        return [self.batch_id] if self.batch_id and not self.origin_ids else self.ids

    @property
    def queue(self) -> str:
        """The queue of the request or else of the task."""
        return self.request.queue or self.spec.task.queue

    @property
    def priority(self) -> int:
        """The priority of the request or else of the task."""
        given = self.request.priority
        return self.spec.task.priority if given is None else given

    @property
    def expires_in(self) -> float | None:
        """The seconds until they expire: of the request, or else of the task."""
        given = self.request.expires_in
        return self.spec.task.expires_in if given is None else given

    def limits(self, actor: Actor) -> list[list[KeyedLimit]]:
        """Return the limits by key of each; empty if none of them has any.

        Raises InputInvalidError for a key that can't be computed.
        """
        if not (self.spec.task.concurrency or self.spec.task.rates or self.spec.limits):
            return []
        ids = {"user_id": actor.user_id, "workspace_id": actor.workspace_id}
        workflow_id = None if self.items is None else self.items.workflow_id
        found = [
            limits_of(self.spec, given, self.request.labels, **ids, workflow_id=workflow_id)
            for given in self.variables
        ]
        return found if any(found) else []


_OPTIONS = text(
    "UPDATE executions e SET options = CAST(i.options AS jsonb) "
    "FROM unnest(CAST(:ids AS uuid[]), CAST(:options AS text[])) AS i (id, options) "
    "WHERE e.id = i.id AND e.id >= :first"
)


def set_options(connection: Connection, ids: Sequence[UUID], options: Sequence[RunOptions]) -> None:
    """Give executions that this transaction has created options of their own."""
    stored = [stored_options(each) for each in options]
    connection.execute(_OPTIONS, {"ids": list(ids), "options": stored, "first": min(ids)})


def create(
    connection: Connection, new: NewExecutions, actor: Actor, *, window: int
) -> list[QueuedMessage]:
    """Insert the executions with their first events and audit entries; return what to send.

    A batch of new work has one audit entry; repeated executions have one each.

    An execution is created `queued`, and must then be sent, if it is due by the database's clock
    and its queue has `room` within `window`. With a `window` of 0, and with limits by key, all are
    `pending`. Raises
    StaleSpecError, and inserts nothing, if the task is gone or inactive, if the named version of
    the task or its agent is no longer the current one, or if the workspace's limits have changed.
    """
    spec, request, family, items = new.spec, new.request, new.family, new.items
    parameters = {
        "ids": list(new.ids),
        # one text: psycopg takes seconds to quote a large text within a list
        "variables": f"[{','.join(map(storable, new.variables))}]",
        "window": window,
        "workspace_id": actor.workspace_id,
        "owner_id": actor.user_id,
        "task_id": spec.task_id,
        "task_version_id": spec.task_version_id,
        "agent_version_id": spec.agent_version_id,
        "trigger_type": request.trigger_type,
        "execution_mode": request.execution_mode,
        "priority": new.priority,
        "queue": new.queue,
        "origin_ids": list(new.origin_ids),
        "batch_id": new.batch_id,
        "request_id": actor.request_id,
        "session_id": request.session_id,
        "options": stored_options(request.options),
        "delay_seconds": request.delay_seconds,
        "available_at": request.available_at,
        "expires_at": request.expires_at,
        "expires_in": new.expires_in,
        "max_crashes": spec.task.max_crashes,
        "limits_revision": spec.limits_revision,
        "held": new.held,
        "parent_id": family and family.parent_id,
        "parent_step": family and family.step,
        "root_id": family and family.root_id,
        "event": dumps({"trigger_type": request.trigger_type, "by": actor.name}),
        "audit_ids": [uuid7() for _ in new.audited],
        "actor_id": actor.user_id,
        "actor": actor.name,
        "audit_type": "execution" if new.audited is new.ids else "batch",
        "audited_ids": list(map(str, new.audited)),
        "audit_count": len(new.ids) // max(len(new.audited), 1),
        "run_id": None if items is None else items.run_id,
        "workflow_id": None if items is None else items.workflow_id,
        "step_no": None if items is None else items.step_no,
        "traceparent": new.traceparent,
        "item_nos": [] if items is None else list(items.numbers),
    }
    ensure(connection, new.ids)
    limits = new.limits(actor)
    if limits:
        parameters |= _limit_parameters(new, limits)
    if request.labels:
        parameters["labels"] = dumps(dict(sorted(request.labels.items())))
    try:
        statement = _CREATE[bool(limits), bool(request.labels)]
        rows = connection.execute(statement, parameters).all()
    except IntegrityError:  # perhaps its partition was dropped meanwhile
        forget(connection)
        raise
    if not rows:
        raise StaleSpecError
    cause = Cause(actor.request_id, actor.user_id, spec.task_id)
    return [
        QueuedMessage(Message(row[0], 0, row[1]), new.queue, new.priority, cause)
        for row in rows
        if row[1] is not None
    ]


def place_of(priority: int) -> int:
    """Return the place in the lines of limits of what has not begun and has this priority."""
    return _LAST_PLACE - priority


def _limit_parameters(
    new: NewExecutions, limits: Sequence[Sequence[KeyedLimit]]
) -> dict[str, object]:
    each = [(id_, limit) for id_, own in zip(new.ids, limits, strict=True) for limit in own]
    return {
        "limited_ids": [id_ for id_, _ in each],
        "keys": [limit.key for _, limit in each],
        "maxima": [limit.max for _, limit in each],
        "policies": [limit.policy.value for _, limit in each],
        "intervals": [limit.interval for _, limit in each],
        "bursts": [limit.burst for _, limit in each],
        "limit_ids": [limit.limit_id for _, limit in each],
        "place": place_of(new.priority),
    }


@dataclass(frozen=True, slots=True)
class StoredKey:
    """The earlier request with this key, and what it created."""

    fingerprint: str
    resource_id: UUID


def find_key(connection: Connection, actor: Actor, key: str) -> StoredKey | None:
    """Return what the request with this key was and made, or None."""
    query = select(table.c.fingerprint, table.c.resource_id).where(
        table.c.workspace_id == actor.workspace_id,
        table.c.owner_id == actor.user_id,
        table.c.key == key,
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else StoredKey(row.fingerprint, row.resource_id)


def claim_key(
    connection: Connection,
    actor: Actor,
    key: str,
    *,
    fingerprint: str,
    resource_type: str,
    resource_id: UUID,
) -> StoredKey | None:
    """Store the key for `resource_id`; return the earlier request with this key, or None.

    A concurrent request with the same key waits until the first one commits or rolls back.
    """
    statement = (
        insert(table)
        .values(
            workspace_id=actor.workspace_id,
            owner_id=actor.user_id,
            key=key,
            fingerprint=fingerprint,
            resource_type=resource_type,
            resource_id=resource_id,
        )
        .on_conflict_do_nothing()
        .returning(table.c.key)
    )
    while connection.execute(statement).first() is None:
        earlier = find_key(connection, actor, key)
        if earlier is not None:  # otherwise retention has deleted it in between
            return earlier
    return None
