"""The paths of resources, and the links between them."""

from uuid import UUID

from celeriac.domain.approvals import Approval, ApprovalStatus
from celeriac.domain.budget_kinds import BudgetScope
from celeriac.domain.budgets import StoredBudget
from celeriac.domain.executions.model import Execution
from celeriac.wire import Links

PREFIX = "/api/v1"
_SIGNED = f"{PREFIX}/approvals/links/"


def shown_path(path: str) -> str:
    """Return a request's path fit for logs: a signed link is a secret."""
    begin, found, _ = path.partition(_SIGNED)
    return f"{begin}{found}***" if found else path


def signed(token: str) -> str:
    """Return the path of a signed link to a question."""
    return f"{_SIGNED}{token}"


def listening(server: tuple[str, int | None] | None) -> str:
    """Return the address of this server; no header of a request has a say in it."""
    host, port = server or ("localhost", None)
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}" if port is None else f"http://{name}:{port}"


def agent(agent_id: UUID) -> Links:
    """Return the links of an agent."""
    return {"self": f"{PREFIX}/agents/{agent_id}"}


def task(task_id: UUID, agent_id: UUID) -> Links:
    """Return the links of a task."""
    path = f"{PREFIX}/tasks/{task_id}"
    return {
        "self": path,
        "agent": f"{PREFIX}/agents/{agent_id}",
        "execute": f"{path}/execute",
        "execute_batch": f"{path}/execute-batch",
        "executions": f"{PREFIX}/task-executions?task={task_id}",
    }


def accepted(
    execution_id: UUID, task_id: UUID, celery_task_id: str | None, session_id: UUID | None
) -> Links:
    """Return the links of an execution that was just taken on."""
    path = f"{PREFIX}/task-executions/{execution_id}"
    return {
        "self": path,
        "task": f"{PREFIX}/tasks/{task_id}",
        "session": None if session_id is None else f"{PREFIX}/sessions/{session_id}",
        "celery_task": celery_task_id and f"{PREFIX}/admin/celery-tasks/{celery_task_id}",
        "events": f"{path}/events",
        "stream": f"{path}/stream",
        "cancel": f"{path}/cancel",
    }


def execution(row: Execution) -> Links:
    """Return the links of an execution as it stands."""
    path = f"{PREFIX}/task-executions/{row.id}"
    links = accepted(row.id, row.task_id, row.celery_task_id, row.session_id)
    links["files"] = f"{path}/files"
    links["model_calls"] = f"{path}/model-calls"
    links["budgets"] = f"{path}/budgets"
    links["approvals"] = f"{PREFIX}/approvals?execution_id={row.id}"
    if row.status.terminal:
        links["cancel"] = None
    links["retry"] = f"{path}/retry" if row.status.terminal else None
    links["report"] = f"{path}/report" if row.status.terminal else None
    if row.options.record:
        links["cassette"] = f"{PREFIX}/cassettes/{row.id}"
    if row.origin_id is not None:
        links["origin"] = f"{PREFIX}/task-executions/{row.origin_id}"
    if row.batch_id is not None:
        links["batch"] = f"{PREFIX}/task-executions?batch_id={row.batch_id}"
    return links


def session(session_id: UUID, execution_id: UUID, parent_id: UUID | None) -> Links:
    """Return the links of a session."""
    path = f"{PREFIX}/sessions/{session_id}"
    return {
        "self": path,
        "execution": f"{PREFIX}/task-executions/{execution_id}",
        "executions": f"{PREFIX}/task-executions?session_id={session_id}",
        "files": f"{path}/files",
        "parent": None if parent_id is None else f"{PREFIX}/sessions/{parent_id}",
    }


def cassette(cassette_id: UUID, execution_id: UUID | None) -> Links:
    """Return the links of a cassette."""
    path = f"{PREFIX}/cassettes/{cassette_id}"
    return {
        "self": path,
        "content": f"{path}/content",
        "execution": f"{PREFIX}/task-executions/{execution_id}" if execution_id else None,
    }


def budget(found: StoredBudget) -> Links:
    """Return the links of a budget."""
    links: Links = {"self": f"{PREFIX}/budgets/{found.id}"}
    if found.scope is BudgetScope.TASK:
        links["task"] = f"{PREFIX}/tasks/{found.subject_id}"
    return links


def approval(found: Approval) -> Links:
    """Return the links of a question."""
    path = f"{PREFIX}/approvals/{found.id}"
    open_now = found.status is ApprovalStatus.OPEN
    return {
        "self": path,
        "answer": f"{path}/answer" if open_now else None,
        "execution": f"{PREFIX}/task-executions/{found.execution_id}",
        "task": f"{PREFIX}/tasks/{found.task_id}",
    }


def batch(batch_id: UUID, task_id: UUID) -> Links:
    """Return the links of a batch."""
    return {
        "self": f"{PREFIX}/task-executions?batch_id={batch_id}",
        "task": f"{PREFIX}/tasks/{task_id}",
    }


def bulk(batch_id: UUID | None) -> Links:
    """Return the links of a change to many executions: the new ones, where there are any."""
    new = None if batch_id is None else f"{PREFIX}/task-executions?batch_id={batch_id}"
    return {"executions": new}


def celery_task(task_id: str, execution_id: UUID | None) -> Links:
    """Return the links of a Celery task."""
    links: Links = {"self": f"{PREFIX}/celery-tasks/{task_id}"}
    if execution_id is not None:
        links["execution"] = f"{PREFIX}/task-executions/{execution_id}"
    return links
