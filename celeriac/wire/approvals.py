"""Approvals: questions of agents to people, and the answers."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from celeriac.domain.approvals import ApprovalStatus, OnExpiry, QuestionKind
from celeriac.wire.base import Links, Wire, links


class LinkedApproval(Wire):
    """A question, as the holder of a link to it sees it."""

    id: UUID
    task_name: str | None = Field(
        description="null for a step of a workflow.", examples=["write-offer"]
    )
    workflow_name: str | None = Field(
        description="Of the run whose step asks; null for a question of an execution."
    )
    step: str | None = Field(description="The step of the run that asks.")
    kind: QuestionKind = Field(
        description="tool, question, form, budget, or step of a workflow run."
    )
    title: str = Field(examples=["May the agent seller call send_mail?"])
    tool: str | None = Field(examples=["send_mail"])
    arguments: dict[str, Any] = Field(
        description="The tool's arguments, or what the step shows; very long texts are clipped.",
        examples=[{"to": "ada@example.com", "subject": "Our offer"}],
    )
    answer_schema: dict[str, Any] | None = Field(
        alias="schema", description="JSON schema of the answer's value, if any."
    )
    status: ApprovalStatus
    expires_at: datetime
    approved: bool | None = Field(description="null while it is open.")
    answered_at: datetime | None


class ApprovalLink(Wire):
    """A link whose holder may answer one question, once."""

    url: str = Field(
        description="Anyone who has it can answer; keep it secret.",
        examples=["https://celeriac.example.com/api/v1/approvals/links/AZnzogAHcACAAA"],
    )
    expires_at: datetime


class Approval(LinkedApproval):
    """A question that an agent or a workflow asks a person, and the answer if there is one.

    It belongs to an execution of a task, or to a run of a workflow.
    """

    execution_id: UUID | None
    task_id: UUID | None
    workflow_run_id: UUID | None = Field(
        description="The run whose step asks; null for a question of an execution."
    )
    workflow_id: UUID | None
    workspace_id: UUID
    owner_id: UUID = Field(description="Who made it.")
    attempt: int | None = Field(description="The attempt that asked first.")
    key: str = Field(
        description="Names the question within its execution; of a run, the step's id.",
        examples=["2:call_1"],
    )
    on_expiry: OnExpiry = Field(
        description="What happens when nobody answers: deny, approve or fail."
    )
    default: Any = Field(description="The answer's value if `on_expiry` is approve.")
    created_at: datetime
    value: Any = Field(
        description="The text or the form's value; for a tool, the arguments if the person changed "
        "them."
    )
    note: str | None
    answered_by: str | None = Field(
        description="The user's name, `approval link`, or `expiry` if nobody answered in time."
    )
    links: Links = links(
        self="/api/v1/approvals/{id}",
        answer="/api/v1/approvals/{id}/answer",
        execution="/api/v1/task-executions/{execution_id}",
        task="/api/v1/tasks/{task_id}",
        workflow_run="/api/v1/workflow-runs/{workflow_run_id}",
        workflow="/api/v1/workflows/{workflow_id}",
    )
