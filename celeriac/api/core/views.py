"""From domain objects to answers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from celeriac import wire
from celeriac.api.core import links
from celeriac.domain import tasks
from celeriac.domain.approvals import Approval
from celeriac.domain.budgets import BudgetState, StoredBudget
from celeriac.domain.cassettes import CassetteSummary
from celeriac.domain.document import Action, FieldChange, Outcome
from celeriac.domain.executions.events import Event
from celeriac.domain.executions.model import Execution
from celeriac.domain.executions.states import SIMPLE
from celeriac.domain.sessions import Session
from celeriac.domain.tasks import Priority
from celeriac.services.executions.bulk import BulkPage
from celeriac.services.operations.celery_tasks import CeleryTaskState


def agent(found: tasks.Agent, warnings: Sequence[str] = ()) -> wire.Agent:
    """Return an agent as answers show it."""
    return wire.Agent(**_values(found), warnings=list(warnings), links=links.agent(found.id))


def task(found: tasks.Task) -> wire.Task:
    """Return a task as answers show it."""
    values = _values(found)
    reference = wire.AgentReference(id=values.pop("agent_id"), name=values.pop("agent_name"))
    return wire.Task(**values, agent=reference, links=links.task(found.id, found.agent_id))


def applied(
    outcomes: Sequence[Outcome], warnings: Mapping[str, Sequence[str]], *, dry_run: bool
) -> wire.Applied:
    """Return what came of a document, as answers show it; `warnings` are by agents' names."""
    count = Counter(outcome.action for outcome in outcomes)
    return wire.Applied(
        dry_run=dry_run,
        created=count[Action.CREATE],
        changed=count[Action.CHANGE],
        unchanged=count[Action.UNCHANGED],
        items=[
            wire.AppliedResource(
                **{**_values(outcome), "changes": list(map(_change, outcome.changes))},
                warnings=list(warnings.get(outcome.name, ()) if outcome.kind == "agent" else ()),
            )
            for outcome in outcomes
        ],
    )


def _change(change: FieldChange) -> wire.FieldChange:
    return wire.FieldChange.model_validate(change)


def execution(row: Execution) -> wire.Execution:
    """Return an execution as answers show it."""
    return wire.Execution(**_shown(row))


def summary(row: Execution) -> wire.ExecutionSummary:
    """Return an execution as lists show it; what wasn't read of it is None."""
    return wire.ExecutionSummary(**_shown(row))


def _shown(row: Execution) -> dict[str, Any]:
    values = _values(row)
    progress = None
    if row.progress_done is not None:
        progress = wire.Progress(
            done=row.progress_done, total=row.progress_total, note=row.progress_note
        )
    values |= {
        "priority": Priority(row.priority).label,
        "event_count": row.event_seq,
        "progress": progress,
        "links": links.execution(row),
    }
    return values


def bulk(page: BulkPage, *, dry_run: bool) -> wire.BulkResult:
    """Return what a request has done to many executions, as answers show it."""
    return wire.BulkResult(
        dry_run=dry_run,
        affected=len(page.execution_ids),
        execution_ids=list(page.execution_ids),
        skipped=[
            wire.SkippedExecution(execution_id=key, code=error.code, message=error.message)
            for key, error in page.refused.items()
        ],
        remaining=page.remaining,
        next_cursor=page.next_cursor,
        batch_id=page.batch_id,
        links=links.bulk(page.batch_id),
    )


def session(found: Session) -> wire.Session:
    """Return a session as answers show it; its state stays inside."""
    values = _values(found)
    del values["state"]
    return wire.Session(
        **values, links=links.session(found.id, found.execution_id, found.parent_id)
    )


def cassette(found: CassetteSummary) -> wire.Cassette:
    """Return a cassette as answers show it."""
    return wire.Cassette(**_values(found), links=links.cassette(found.id, found.execution_id))


def approval(found: Approval) -> wire.Approval:
    """Return a question as answers show it."""
    return wire.Approval(**_values(found), links=links.approval(found))


def linked_approval(found: Approval) -> wire.LinkedApproval:
    """Return a question as whoever holds a link to it is shown it."""
    return wire.LinkedApproval.model_validate(found, from_attributes=True)


def standing(found: BudgetState) -> wire.BudgetStanding:
    """Return how a budget stands, as answers show it."""
    return wire.BudgetStanding.model_validate(found)


def budget(found: StoredBudget) -> wire.Budget:
    """Return a budget as answers show it."""
    values = _values(found)
    limits = values.pop("budget")
    values |= {
        "max_cost": limits.max_cost,
        "max_tokens": limits.max_tokens,
        "on_budget": limits.on_budget,
        "standing": standing(found.standing),
    }
    return wire.Budget(**values, links=links.budget(found))


def event(found: Event) -> wire.Event:
    """Return an event as answers show it."""
    return wire.Event(
        seq=found.seq, type=found.type, at=found.at, attempt=found.attempt, data=dict(found.data)
    )


def celery_task(found: CeleryTaskState) -> wire.CeleryTask:
    """Return a Celery task as answers show it."""
    values = asdict(found)
    error = None
    if found.error_type or found.error_message or found.traceback:
        error = wire.CeleryTaskError(
            type=found.error_type, message=found.error_message, traceback=found.traceback
        )
    values |= {
        "status": found.state,
        "simple_status": SIMPLE[found.state],
        "error": error,
        "links": links.celery_task(found.task_id, found.execution_id),
    }
    return wire.CeleryTask(**values)


def _values(found: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, without copying what is in them."""
    return {field.name: getattr(found, field.name) for field in fields(found)}
