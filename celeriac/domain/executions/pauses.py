"""Pauses: what may not begin for now, and who has said so."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

MOST_PAUSES = 100
"""How many tasks, workflows, limits and keys a workspace may pause at the same time, of each; how
many queues and how many workers the installation."""

LONGEST_REASON = 500
LONGEST_NODE = 255
LONGEST_KEY = 1_000


class PauseScope(StrEnum):
    """What a pause is about."""

    SYSTEM = "system"
    """All executions of the installation."""
    QUEUE = "queue"
    TASK = "task"
    WORKFLOW = "workflow"
    """The steps of its runs."""
    WORKSPACE = "workspace"
    LIMIT = "limit"
    """What needs a slot of a limit of the workspace, whatever the key is."""
    KEY = "key"
    """What needs a slot of one key of a limit."""
    WORKER = "worker"
    """What a worker takes; others may run it."""


@dataclass(frozen=True, slots=True)
class PauseTarget:
    """What is paused. Queue and worker have names, a task an id; a workspace is the actor's."""

    scope: PauseScope
    queue: str | None = None
    task_id: UUID | None = None
    worker: str | None = None
    """The name of a Celery node, as `celery@shop-1`."""
    workflow_id: UUID | None = None
    limit_id: UUID | None = None
    key: str | None = None
    """As `limit_keys` of an execution has it."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause that is in force; nothing that it is about begins an attempt."""

    id: UUID
    scope: PauseScope
    queue: str | None
    task_id: UUID | None
    task_name: str | None
    workspace_id: UUID | None
    """Of a task, workflow, workspace, limit or key; None for queues, workers and the system."""
    workspace_name: str | None
    worker: str | None
    workflow_id: UUID | None
    workflow_name: str | None
    limit_id: UUID | None
    limit_name: str | None
    key: str | None
    reason: str
    owner_id: UUID
    """Who made it."""
    created_by: str
    """Their name."""
    created_at: datetime

    @property
    def subject(self) -> str:
        """What is paused, in words."""
        names: dict[PauseScope, object] = {
            PauseScope.QUEUE: self.queue,
            PauseScope.TASK: self.task_name,
            PauseScope.WORKFLOW: self.workflow_name,
            PauseScope.WORKSPACE: self.workspace_name,
            PauseScope.LIMIT: self.limit_name,
            PauseScope.KEY: self.key,
        }
        match self.scope:
            case PauseScope.SYSTEM:
                return "the whole system"
            case PauseScope.WORKER:
                return f"the worker {self.worker}"
            case scope:
                return f"the {scope} {names[scope]!r}"
