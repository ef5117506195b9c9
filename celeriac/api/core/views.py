"""From domain objects to answers, with the links between resources."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any
from uuid import UUID

from celeriac import wire
from celeriac.api.core.links import PREFIX
from celeriac.domain import tasks
from celeriac.domain.approvals import Approval, ApprovalStatus
from celeriac.domain.budget_kinds import BudgetScope
from celeriac.domain.budgets import BudgetState, StoredBudget
from celeriac.domain.cassettes import CassetteSummary
from celeriac.domain.document import Action, Outcome
from celeriac.domain.executions.events import Event
from celeriac.domain.executions.model import Execution
from celeriac.domain.executions.states import SIMPLE
from celeriac.domain.sessions import Session
from celeriac.domain.tasks import Priority
from celeriac.services.executions.bulk import BulkPage
from celeriac.services.operations.celery_tasks import CeleryTaskState

_AGENTS = f"{PREFIX}/agents"
_APPROVALS = f"{PREFIX}/approvals"
_CASSETTES = f"{PREFIX}/cassettes"
_EXECUTIONS = f"{PREFIX}/task-executions"
_SESSIONS = f"{PREFIX}/sessions"
_TASKS = f"{PREFIX}/tasks"


def agent(found: tasks.Agent, warnings: Sequence[str] = ()) -> wire.Agent:
    """Return an agent as answers show it."""
    links: wire.Links = {"self": f"{_AGENTS}/{found.id}"}
    return wire.Agent(**_values(found), warnings=list(warnings), links=links)


def task(found: tasks.Task) -> wire.Task:
    """Return a task as answers show it."""
    values = _values(found)
    reference = wire.AgentReference(id=values.pop("agent_id"), name=values.pop("agent_name"))
    path = f"{_TASKS}/{found.id}"
    links: wire.Links = {
        "self": path,
        "agent": f"{_AGENTS}/{found.agent_id}",
        "execute": f"{path}/execute",
        "execute_batch": f"{path}/execute-batch",
        "executions": f"{_EXECUTIONS}?task={found.id}",
    }
    return wire.Task(**values, agent=reference, links=links)


def applied(
    outcomes: Sequence[Outcome], warnings: Mapping[str, Sequence[str]], *, dry_run: bool
) -> wire.Applied:
    """Return the outcomes of a document as answers show them; `warnings` are by agents' names."""
    count = Counter(outcome.action for outcome in outcomes)
    return wire.Applied(
        dry_run=dry_run,
        created=count[Action.CREATE],
        changed=count[Action.CHANGE],
        unchanged=count[Action.UNCHANGED],
        items=[
            wire.AppliedResource(
                **_values(outcome)
                | {"changes": list(map(wire.FieldChange.model_validate, outcome.changes))},
                warnings=list(warnings.get(outcome.name, ()) if outcome.kind == "agent" else ()),
            )
            for outcome in outcomes
        ],
    )


def execution(row: Execution) -> wire.Execution:
    """Return an execution as answers show it."""
    return wire.Execution(**_execution(row))


def summary(row: Execution) -> wire.ExecutionSummary:
    """Return an execution as lists show it; fields that were not read are None."""
    return wire.ExecutionSummary(**_execution(row))


def _execution(row: Execution) -> dict[str, Any]:
    progress = None
    if row.progress_done is not None:
        progress = wire.Progress(
            done=row.progress_done, total=row.progress_total, note=row.progress_note
        )
    return _values(row) | {
        "priority": Priority(row.priority).label,
        "event_count": row.event_seq,
        "progress": progress,
        "links": _execution_links(row),
    }


def _execution_links(row: Execution) -> wire.Links:
    path = f"{_EXECUTIONS}/{row.id}"
    ended = row.status.terminal
    links = accepted_links(row.id, row.task_id, row.celery_task_id, row.session_id)
    links |= {
        "files": f"{path}/files",
        "model_calls": f"{path}/model-calls",
        "budgets": f"{path}/budgets",
        "approvals": f"{_APPROVALS}?execution_id={row.id}",
        "cancel": None if ended else f"{path}/cancel",
        "retry": f"{path}/retry" if ended else None,
        "report": f"{path}/report" if ended else None,
    }
    if row.options.record:
        links["cassette"] = f"{_CASSETTES}/{row.id}"
    if row.origin_id is not None:
        links["origin"] = f"{_EXECUTIONS}/{row.origin_id}"
    if row.batch_id is not None:
        links["batch"] = f"{_EXECUTIONS}?batch_id={row.batch_id}"
    return links


def accepted_links(
    execution_id: UUID, task_id: UUID, celery_task_id: str | None, session_id: UUID | None
) -> wire.Links:
    """Return the links of an execution that was just accepted."""
    path = f"{_EXECUTIONS}/{execution_id}"
    return {
        "self": path,
        "task": f"{_TASKS}/{task_id}",
        "session": None if session_id is None else f"{_SESSIONS}/{session_id}",
        "celery_task": celery_task_id and f"{PREFIX}/admin/celery-tasks/{celery_task_id}",
        "events": f"{path}/events",
        "stream": f"{path}/stream",
        "cancel": f"{path}/cancel",
    }


def batch_links(batch_id: UUID, task_id: UUID) -> wire.Links:
    """Return the links of a batch."""
    return {"self": f"{_EXECUTIONS}?batch_id={batch_id}", "task": f"{_TASKS}/{task_id}"}


def bulk(page: BulkPage, *, dry_run: bool) -> wire.BulkResult:
    """Return the effect of a request on many executions as answers show it."""
    batch = None if page.batch_id is None else f"{_EXECUTIONS}?batch_id={page.batch_id}"
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
        links={"executions": batch},
    )


def session(found: Session) -> wire.Session:
    """Return a session as answers show it, without its state."""
    values = _values(found)
    del values["state"]
    path = f"{_SESSIONS}/{found.id}"
    links: wire.Links = {
        "self": path,
        "execution": f"{_EXECUTIONS}/{found.execution_id}",
        "executions": f"{_EXECUTIONS}?session_id={found.id}",
        "files": f"{path}/files",
        "parent": None if found.parent_id is None else f"{_SESSIONS}/{found.parent_id}",
    }
    return wire.Session(**values, links=links)


def cassette(found: CassetteSummary) -> wire.Cassette:
    """Return a cassette as answers show it."""
    path = f"{_CASSETTES}/{found.id}"
    recorded_by = found.execution_id
    links: wire.Links = {
        "self": path,
        "content": f"{path}/content",
        "execution": f"{_EXECUTIONS}/{recorded_by}" if recorded_by else None,
    }
    return wire.Cassette(**_values(found), links=links)


def approval(found: Approval) -> wire.Approval:
    """Return a question as answers show it."""
    path = f"{_APPROVALS}/{found.id}"
    links: wire.Links = {
        "self": path,
        "answer": f"{path}/answer" if found.status is ApprovalStatus.OPEN else None,
        "execution": f"{_EXECUTIONS}/{found.execution_id}",
        "task": f"{_TASKS}/{found.task_id}",
    }
    return wire.Approval(**_values(found), links=links)


def linked_approval(found: Approval) -> wire.LinkedApproval:
    """Return a question as the holder of a link to it sees it."""
    return wire.LinkedApproval.model_validate(found, from_attributes=True)


def standing(found: BudgetState) -> wire.BudgetStanding:
    """Return the state of a budget as answers show it."""
    return wire.BudgetStanding.model_validate(found)


def budget(found: StoredBudget) -> wire.Budget:
    """Return a budget as answers show it."""
    values = _values(found)
    limits = values.pop("budget")
    values |= {
        "max_cost": limits.max_cost,
        "max_tokens": limits.max_tokens,
        "on_budget": limits.on_budget,
        "standing": standing(found.state),
    }
    links: wire.Links = {"self": f"{PREFIX}/budgets/{found.id}"}
    if found.scope is BudgetScope.TASK:
        links["task"] = f"{_TASKS}/{found.subject_id}"
    return wire.Budget(**values, links=links)


def event(found: Event) -> wire.Event:
    """Return an event as answers show it."""
    return wire.Event(
        seq=found.seq, type=found.type, at=found.at, attempt=found.attempt, data=dict(found.data)
    )


def celery_task(found: CeleryTaskState) -> wire.CeleryTask:
    """Return a Celery task as answers show it."""
    error = None
    if found.error_type or found.error_message or found.traceback:
        error = wire.CeleryTaskError(
            type=found.error_type, message=found.error_message, traceback=found.traceback
        )
    links: wire.Links = {"self": f"{PREFIX}/celery-tasks/{found.task_id}"}
    if found.execution_id is not None:
        links["execution"] = f"{_EXECUTIONS}/{found.execution_id}"
    values = asdict(found) | {
        "status": found.state,
        "simple_status": SIMPLE[found.state],
        "error": error,
        "links": links,
    }
    return wire.CeleryTask(**values)


def _values(found: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, without copying their values."""
    return {field.name: getattr(found, field.name) for field in fields(found)}
