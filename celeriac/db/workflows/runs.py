"""Runs of workflows: rows, lists, and all changes of their status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Select, and_, or_, select, text

from celeriac.db.executions.guards import kept_with_guards
from celeriac.db.paging import (
    columns,
    created,
    given,
    matching,
    newest,
    read_all,
    read_one,
    reader,
    written_out,
)
from celeriac.db.partitions import ensure
from celeriac.db.plans import kept_text
from celeriac.db.schema.catalog import workflow_versions, workflows
from celeriac.db.schema.workflows import workflow_runs as table
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.workflows.records import RunFilter, WorkflowRun
from celeriac.domain.workflows.states import RUN_TRANSITIONS, RunStatus, RunTransition
from celeriac.kit.json_types import JsonObject, JsonValue, storable, storable_text

_COMPUTED: Mapping[str, ColumnElement[object]] = {
    "workflow_name": workflows.c.name,
    "version": workflow_versions.c.version,
}


def _selected() -> Select[tuple[object, ...]]:
    query = columns(WorkflowRun, table, **_COMPUTED)
    return query.join_from(table, workflows, workflows.c.id == table.c.workflow_id).join(
        workflow_versions, workflow_versions.c.id == table.c.workflow_version_id
    )


_SELECT = _selected()
_run = reader(WorkflowRun)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """A run to insert; it is `pending` if it waits for slots of its limits."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID
    workflow_id: UUID
    workflow_version_id: UUID
    trigger_type: TriggerType
    priority: int | None
    input: JsonObject
    created_by: str
    request_id: str | None
    deadline_seconds: float | None = None
    deadline_at: datetime | None = None
    """That of its parent; the earlier one counts."""
    origin_id: UUID | None = None
    parent_run_id: UUID | None = None
    parent_step_no: int | None = None
    parent_item_no: int | None = None
    depth: int = 1
    status: RunStatus = RunStatus.RUNNING
    limited: bool = False
    """It has limits."""


_ADD = text("""
INSERT INTO workflow_runs (id, workspace_id, owner_id, workflow_id, workflow_version_id, status,
                           trigger_type, priority, input, created_by, request_id, origin_id,
                           parent_run_id, parent_step_no, parent_item_no, depth, limited,
                           deadline_at)
VALUES (:id, :workspace_id, :owner_id, :workflow_id, :workflow_version_id, :status,
        :trigger_type, :priority, CAST(:input AS json), :created_by, :request_id, :origin_id,
        :parent_run_id, :parent_step_no, :parent_item_no, :depth, :limited,
        least(CAST(:deadline_at AS timestamptz),
              now() + make_interval(secs => CAST(:deadline_seconds AS double precision))))
""")


def add(connection: Connection, new: NewRun) -> None:
    """Insert a run."""
    ensure(connection, [new.id])  # for its events
    values = {each.name: getattr(new, each.name) for each in fields(NewRun)}
    connection.execute(_ADD, values | {"input": storable(new.input)})


def get(connection: Connection, run_id: UUID, *, workspace: UUID | None) -> WorkflowRun | None:
    """Return a run of `workspace` (None: of any), or None."""
    query = given(_SELECT.where(table.c.id == run_id), (table.c.workspace_id, workspace))
    return read_one(connection, query, _run)


def lock(
    connection: Connection, run_id: UUID, *, workspace: UUID | None = None
) -> WorkflowRun | None:
    """Return a run, locked until the transaction ends, or None."""
    query = given(_SELECT.where(table.c.id == run_id), (table.c.workspace_id, workspace))
    return read_one(connection, query.with_for_update(of=table, key_share=True), _run)


_OF_ONE_WORKSPACE = ("workflow_id", "origin_id", "parent_run_id")
_WRITTEN_OUT = ("workflow_id", "status", "trigger_type")
"""Values of which some are rare and some are not."""


def find(
    connection: Connection, wanted: RunFilter, *, before: UUID | None, limit: int
) -> list[WorkflowRun]:
    """Return up to `limit` runs with smaller ids than `before`, the newest first."""
    query = matching(_SELECT, table, wanted, "origin_id", "parent_run_id")
    if any(getattr(wanted, name) is not None for name in _OF_ONE_WORKSPACE):
        # checked, not searched by: all others of the workspace would be read
        if wanted.workspace_id is not None:
            query = query.where(table.c.workspace_id.is_not_distinct_from(wanted.workspace_id))
    else:
        query = matching(query, table, wanted, "workspace_id")
    for name in _WRITTEN_OUT:
        value = getattr(wanted, name)
        if value is not None:
            query = query.where(table.c[name] == written_out(value, table.c[name]))
    if wanted.top_level:
        query = query.where(table.c.parent_run_id.is_(None))
    query = created(query, table, after=wanted.created_after, before=wanted.created_before)
    return read_all(connection, newest(query, table.c.id, before=before, limit=limit), _run)


def unfinished_of(connection: Connection, workflow_id: UUID) -> bool:
    """Whether a run of the workflow has not ended."""
    query = select(table.c.id).where(
        table.c.workflow_id == workflow_id, table.c.completed_at.is_(None)
    )
    return connection.execute(query.limit(1)).first() is not None


def uncancelled_in(
    connection: Connection, workspace_id: UUID, *, limit: int, compensating: bool
) -> list[UUID]:
    """Return up to `limit` runs of a workspace that have not ended and are not cancelled.

    With `compensating` also all that are being compensated, which can't be cancelled any more.
    """
    undisturbed = table.c.cancel_requested_at.is_(None)
    query = select(table.c.id).where(
        table.c.workspace_id == workspace_id,
        text(
            "workflow_runs.status <> 'completed'"
        ),  # as the index of a workspace's statuses has it
        table.c.completed_at.is_(None),
        or_(table.c.status == RunStatus.COMPENSATING, undisturbed) if compensating
        else and_(table.c.status != RunStatus.COMPENSATING, undisturbed),
    )  # fmt: skip
    return list(connection.execute(query.limit(limit)).scalars())


_REQUEST_CANCEL = text("""
UPDATE workflow_runs SET cancel_requested_at = now(), cancel_requested_by = :by
WHERE id = :id AND completed_at IS NULL AND cancel_requested_at IS NULL
  AND status <> 'compensating' AND (status = 'pending' OR NOT CAST(:only_pending AS boolean))
RETURNING id
""")


def request_cancel(
    connection: Connection, run_id: UUID, by: str, *, only_pending: bool = False
) -> bool:
    """Mark a run; False if it has ended, is being compensated, or was marked before.

    With `only_pending` also if it has begun. From the commit on none of its steps begins: who
    starts one locks the run's row first.
    """
    parameters = {"id": run_id, "by": by, "only_pending": only_pending}
    return connection.execute(_REQUEST_CANCEL, parameters).first() is not None


_OVERDUE = text("""
SELECT id FROM workflow_runs
WHERE completed_at IS NULL AND NOT overdue AND deadline_at IS NOT NULL AND deadline_at <= now()
  AND status <> 'compensating'
ORDER BY deadline_at LIMIT :limit
""")


def overdue(connection: Connection, *, limit: int) -> list[UUID]:
    """Return runs that have not ended and whose deadline has passed, the longest ago first.

    A run that is being compensated has no deadline any more.
    """
    return list(connection.execute(_OVERDUE, {"limit": limit}).scalars())


_MEET_DEADLINE = text("UPDATE workflow_runs SET overdue = true WHERE id = :id")


def meet_deadline(connection: Connection, run_id: UUID) -> None:
    """Note that a locked run has met its deadline: what runs is stopped."""
    connection.execute(_MEET_DEADLINE, {"id": run_id})


_CHILDREN = text("""
SELECT id FROM workflow_runs
WHERE parent_run_id = :run_id AND completed_at IS NULL AND cancel_requested_at IS NULL
  AND parent_step_no = :step_no AND status <> 'compensating'
LIMIT :limit
""")


def live_children(connection: Connection, run_id: UUID, step_no: int, *, limit: int) -> list[UUID]:
    """Return the runs that are items of a step and whose cancellation is possible."""
    parameters = {"run_id": run_id, "step_no": step_no, "limit": limit}
    return list(connection.execute(_CHILDREN, parameters).scalars())


_RELEASED = """, released AS (
            DELETE FROM run_limits WHERE run_id IN (SELECT id FROM moved)
        )"""
"""Gives back what the run has of its limits."""

_MOVE = {
    transition: kept_with_guards(
        """
        WITH moved AS (
            UPDATE workflow_runs
            SET status = '{target}'{ends}, result = coalesce(CAST(:result AS json), result),
                compensation = coalesce(:compensation, compensation)
            WHERE id = :id AND status IN ({sources})
            RETURNING id, workspace_id, status, completed_at
        ), delivered AS (
            INSERT INTO deliveries (id, workspace_id, lane, endpoint_id, run_id, event)
            SELECT celeriac_uuid7(), w.workspace_id, w.id, w.id, moved.id,
                   'workflow.' || moved.status
            FROM moved JOIN webhook_endpoints w ON w.workspace_id = moved.workspace_id
            WHERE w.workspace_id = ANY (ARRAY(
                SELECT workspace_id FROM moved WHERE completed_at IS NOT NULL))
              AND w.active AND 'workflow.' || moved.status = ANY (w.events)
        ), called AS (
            UPDATE celery_calls SET pending = 0, due_at = now()
            WHERE ended_at IS NULL AND subject_id = ANY (ARRAY(
                SELECT id FROM moved WHERE completed_at IS NOT NULL))
        ){released}
        SELECT id FROM moved
        """,
        {
            "target": target,
            "released": _RELEASED if target.terminal else "",
            "ends": ", completed_at = now()" if target.terminal else "",
            "sources": ", ".join(f"'{each}'" for each in sorted(sources)),
        },
    )
    for transition, (sources, target) in RUN_TRANSITIONS.items()
}


def move(
    connection: Connection,
    run_id: UUID,
    transition: RunTransition,
    *,
    result: JsonValue = None,
    compensation: str | None = None,
) -> bool:
    """Change the status of a locked run; False if it may not make this transition."""
    parameters = {
        "id": run_id,
        "result": None if result is None else storable(result),
        "compensation": compensation,
    }
    return connection.execute(_MOVE[transition], parameters).first() is not None


_FAIL = text("""
UPDATE workflow_runs
SET error_code = :code, error_message = :message, error_step = :step
WHERE id = :id AND error_code IS NULL AND completed_at IS NULL
RETURNING id
""")


def fail(
    connection: Connection, run_id: UUID, *, code: str, message: str, step: str | None
) -> bool:
    """Store why a locked run fails; False if it fails for another reason already."""
    parameters = {"id": run_id, "code": code, "message": storable_text(message), "step": step}
    return connection.execute(_FAIL, parameters).first() is not None


_LOG = kept_text("""
WITH fresh AS (
    SELECT * FROM unnest(CAST(:types AS text[]), CAST(:data AS text[])) WITH ORDINALITY
                  AS f (type, data, place)
), numbered AS (
    UPDATE workflow_runs SET event_seq = event_seq + (SELECT count(*) FROM fresh)
    WHERE id = :id
    RETURNING event_seq - (SELECT count(*) FROM fresh) AS before
)
INSERT INTO events (execution_id, seq, type, attempt, data)
SELECT :id, numbered.before + fresh.place, fresh.type, 0, CAST(fresh.data AS json)
FROM numbered, fresh
""")


def log(
    connection: Connection, run_id: UUID, entries: Sequence[tuple[EventType, JsonObject]]
) -> None:
    """Append events to the log of a run."""
    if not entries:
        return
    parameters = {
        "id": run_id,
        "types": [kind.value for kind, _ in entries],
        "data": [storable(data) for _, data in entries],
    }
    connection.execute(_LOG, parameters)


_UNSUCCESSFUL = text("""
SELECT i.item_no, i.child_run_id FROM step_items i
LEFT JOIN LATERAL (
    SELECT id, status FROM workflow_runs WHERE id = i.child_run_id OFFSET 0) r ON true
WHERE i.run_id = :run_id AND i.step_no = :step_no AND i.round = 1
  AND i.item_no = ANY(CAST(:item_nos AS int[])) AND i.child_run_id IS NOT NULL
  AND (r.id IS NULL OR r.status <> 'completed')
""")


def unsuccessful(
    connection: Connection, run_id: UUID, step_no: int, item_nos: Sequence[int]
) -> dict[int, WorkflowRun | None]:
    """Return the runs without success that items of an ended run's step are; None for deleted ones.

    For a run of which the compensation was retried, the run that did so last.
    """
    parameters = {"run_id": run_id, "step_no": step_no, "item_nos": list(item_nos)}
    found = {}
    for item_no, child_id in connection.execute(_UNSUCCESSFUL, parameters).all():
        child = get(connection, child_id, workspace=None)
        while child is not None and child.compensation_run_id is not None:
            child = get(connection, child.compensation_run_id, workspace=None)
        found[item_no] = child
    return found
