"""From domain objects to answers, with the links between resources."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import Any

from celeriac import wire
from celeriac.api.core.links import PREFIX
from celeriac.domain import tasks
from celeriac.domain.approvals import Approval, ApprovalStatus
from celeriac.domain.budget_kinds import BudgetScope
from celeriac.domain.budgets import StoredBudget
from celeriac.domain.cassettes import CassetteSummary
from celeriac.domain.document import Action, Outcome
from celeriac.domain.executions.events import Event
from celeriac.domain.executions.model import Execution
from celeriac.domain.executions.pauses import Pause
from celeriac.domain.executions.states import SIMPLE, Status
from celeriac.domain.hooks.model import Hook, HookDelivery
from celeriac.domain.schedules.backfill import Backfill
from celeriac.domain.schedules.model import Fire, Preview, Schedule
from celeriac.domain.sessions import Session
from celeriac.domain.tasks import Priority
from celeriac.domain.webhooks import Delivery, DeliveryDetails, Endpoint
from celeriac.domain.workflows.limits import RunLimit
from celeriac.domain.workflows.records import (
    ItemEnd,
    StepItem,
    StepRun,
    Workflow,
    WorkflowRun,
    WorkflowVersion,
)
from celeriac.domain.workflows.states import RunStatus
from celeriac.services.executions.bulk import BulkPage
from celeriac.services.executions.pauses import Ended
from celeriac.services.hooks.manage import ShownSecret
from celeriac.services.limits import UsedLimit
from celeriac.services.operations.celery_tasks import CeleryTaskState
from celeriac.services.webhooks.manage import NewEndpoint

_EXECUTIONS = f"{PREFIX}/task-executions"


def agent(found: tasks.Agent, warnings: Sequence[str] = ()) -> wire.Agent:
    """Return an agent as answers show it."""
    return wire.Agent.linked(_values(found) | {"warnings": list(warnings)})


def task(found: tasks.Task) -> wire.Task:
    """Return a task as answers show it."""
    reference = {"id": found.agent_id, "name": found.agent_name}
    return wire.Task.linked(_values(found) | {"agent": reference})


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


def execution(row: Execution, child_counts: Mapping[Status, int] | None = None) -> wire.Execution:
    """Return an execution as answers show it."""
    counts = {status.value: count for status, count in (child_counts or {}).items()}
    return wire.Execution.model_validate(_execution(row) | {"child_counts": counts})


def summary(row: Execution) -> wire.ExecutionSummary:
    """Return an execution as lists show it; fields that were not read are None."""
    return wire.ExecutionSummary.model_validate(_execution(row))


def _execution(row: Execution) -> dict[str, Any]:
    progress = None
    if row.progress_done is not None:
        progress = wire.Progress(
            done=row.progress_done, total=row.progress_total, note=row.progress_note
        )
    values = _values(row) | {
        "priority": Priority(row.priority).label,
        "event_count": row.event_seq,
        "cache_hit_ratio": row.cache_hit_ratio,
        "flags": list(row.flags),
        "progress": progress,
    }
    links = wire.ExecutionSummary.links_of(values)
    if not row.status.terminal:
        links |= {"cancel": f"{links['self']}/cancel", "retry": None, "report": None}
    if row.options.record:
        links["cassette"] = f"{PREFIX}/cassettes/{row.id}"
    if row.origin_id is not None:
        links["origin"] = f"{_EXECUTIONS}/{row.origin_id}"
    if row.parent_id is not None:
        links["parent"] = f"{_EXECUTIONS}/{row.parent_id}"
    if row.workflow_run_id is not None:
        links["workflow_run"] = f"{PREFIX}/workflow-runs/{row.workflow_run_id}"
    if row.batch_id is not None:
        links["batch"] = f"{_EXECUTIONS}?batch_id={row.batch_id}"
    return values | {"links": links}


def schedule(found: Schedule) -> wire.Schedule:
    """Return a schedule as answers show it."""
    return wire.Schedule.linked(_values(found))


def fire(found: Fire) -> wire.Fire:
    """Return a fire of a schedule as answers show it."""
    return wire.Fire.linked(_values(found))


def preview(zone: str, found: Sequence[Preview]) -> wire.Preview:
    """Return fires to come as answers show them."""
    return wire.Preview(
        zone=zone,
        fires=[
            wire.PreviewedFire(at=each.at, local=each.local.isoformat(), starts_at=each.starts_at)
            for each in found
        ],
    )


def backfill(found: Backfill, *, dry_run: bool) -> wire.Backfill:
    """Return a backfill as answers show it."""
    return wire.Backfill(
        dry_run=dry_run,
        fires=list(found.fires),
        count=len(found.fires),
        already=found.already,
        until=found.until,
    )


def limit(found: UsedLimit) -> wire.Limit:
    """Return a limit of the workspace as answers show it."""
    return wire.Limit.linked(_values(found.limit) | _values(found.use))


def pause(found: Pause) -> wire.Pause:
    """Return a pause as answers show it."""
    return wire.Pause.linked(_values(found))


def ended_pause(found: Ended) -> wire.EndedPause:
    """Return a pause that has ended as answers show it."""
    return wire.EndedPause.linked(_values(found.pause) | {"left": found.left})


def webhook(found: Endpoint) -> wire.Webhook:
    """Return a webhook as answers show it."""
    return wire.Webhook.linked(_values(found))


def new_webhook(made: NewEndpoint) -> wire.NewWebhook:
    """Return a new webhook as answers show it, with its secret."""
    return wire.NewWebhook.linked(_values(made.endpoint) | {"secret": made.secret})


def hook(found: Hook, url: str) -> wire.Hook:
    """Return a hook as answers show it."""
    return wire.Hook.linked(_values(found) | {"url": url})


def hook_with_secret(made: ShownSecret, url: str) -> wire.HookWithSecret:
    """Return a hook as answers show it, with its new secret."""
    return wire.HookWithSecret.linked(_values(made.hook) | {"url": url, "secret": made.secret})


def hook_delivery(found: HookDelivery) -> wire.HookDelivery:
    """Return a delivery to a hook as answers show it."""
    return wire.HookDelivery.linked(_values(found))


def delivery(found: Delivery) -> wire.Delivery:
    """Return a delivery as answers show it."""
    return wire.Delivery.linked(_delivery(found))


def delivery_details(found: DeliveryDetails) -> wire.DeliveryDetails:
    """Return a delivery with its texts as answers show it."""
    texts = {"body": found.body, "answer": found.answer}
    return wire.DeliveryDetails.linked(_delivery(found.delivery) | texts)


def _delivery(found: Delivery) -> dict[str, Any]:
    values = _values(found)
    return values | {"webhook_id": values.pop("endpoint_id")}


def bulk(page: BulkPage, *, dry_run: bool) -> wire.BulkResult:
    """Return the effect of a request on many executions as answers show it."""
    return wire.BulkResult.linked(
        {
            "dry_run": dry_run,
            "affected": len(page.execution_ids),
            "execution_ids": list(page.execution_ids),
            "skipped": [
                wire.SkippedExecution(execution_id=key, code=error.code, message=error.message)
                for key, error in page.refused.items()
            ],
            "remaining": page.remaining,
            "next_cursor": page.next_cursor,
            "batch_id": page.batch_id,
        }
    )


def workflow(found: Workflow) -> wire.Workflow:
    """Return a workflow as answers show it."""
    return wire.Workflow.linked(_values(found))


def workflow_version(found: WorkflowVersion) -> wire.WorkflowVersion:
    """Return a version of a workflow as answers show it."""
    return wire.WorkflowVersion.model_validate(_values(found))


def run_summary(found: WorkflowRun) -> wire.RunSummary:
    """Return a run of a workflow as lists show it."""
    return wire.RunSummary.model_validate(_run(found))


def run(found: WorkflowRun, steps: Sequence[StepRun], limits: Sequence[RunLimit] = ()) -> wire.Run:
    """Return a run of a workflow with its steps as answers show it."""
    shown = [
        wire.RunStep.model_validate(_values(step) | {"items": step.width, "undoes": step.undoes})
        for step in steps
    ]
    of_limits = [wire.RunLimit.model_validate(_values(each)) for each in limits]
    return wire.Run.model_validate(_run(found) | {"steps": shown, "limits": of_limits})


def item_ended(found: ItemEnd) -> wire.ItemEnded:
    """Return the end of an item as streams show it."""
    return wire.ItemEnded.linked(_values(found) | {"index": found.place.item_no})


def run_item(found: StepItem) -> wire.RunItem:
    """Return an item of a step as answers show it."""
    return wire.RunItem.linked(_values(found) | {"index": found.item_no})


def _run(found: WorkflowRun) -> dict[str, Any]:
    priority = None if found.priority is None else Priority(found.priority).label
    values = _values(found) | {"priority": priority, "event_count": found.event_seq}
    links = wire.RunSummary.links_of(values)
    if not (found.status.terminal or found.status is RunStatus.COMPENSATING):
        links |= {"cancel": f"{links['self']}/cancel"}
    return values | {"links": links}


def session(found: Session) -> wire.Session:
    """Return a session as answers show it, without its state."""
    return wire.Session.linked(_values(found))


def cassette(found: CassetteSummary) -> wire.Cassette:
    """Return a cassette as answers show it."""
    return wire.Cassette.linked(_values(found))


def approval(found: Approval) -> wire.Approval:
    """Return a question as answers show it."""
    closed = {} if found.status is ApprovalStatus.OPEN else {"answer": None}
    values = _values(found) | {"workflow_run_id": found.run_id, "step": found.step}
    return wire.Approval.linked(values, **closed)


def linked_approval(found: Approval) -> wire.LinkedApproval:
    """Return a question as the holder of a link to it sees it."""
    return wire.LinkedApproval.model_validate(found, from_attributes=True)


def budget(found: StoredBudget) -> wire.Budget:
    """Return a budget as answers show it."""
    values = _values(found) | dict(found.budget)
    values["state"] = wire.BudgetState.model_validate(found.state)
    links = wire.Budget.links_of(values)
    if found.scope is not BudgetScope.TASK:
        del links["task"]
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
    values = _values(found) | {
        "status": found.state,
        "simple_status": SIMPLE[found.state],
        "error": error,
    }
    of = found.execution_id
    return wire.CeleryTask.linked(values, **({"execution": f"{_EXECUTIONS}/{of}"} if of else {}))


def _values(found: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, without copying their values."""
    kind: Any = type(found)
    names, get = _fields(kind)
    return dict(zip(names, get(found), strict=True))


@cache
def _fields(kind: type[Any]) -> tuple[tuple[str, ...], Callable[[object], tuple[Any, ...]]]:
    names = tuple(field.name for field in fields(kind))
    return names, attrgetter(*names)
