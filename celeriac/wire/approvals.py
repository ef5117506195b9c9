"""Approvals: questions of agents to people, and the answers."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from celeriac.domain.approvals import ApprovalStatus, OnExpiry, QuestionKind
from celeriac.wire import examples
from celeriac.wire.base import Links, Wire, example


class LinkedApproval(Wire):
    """A question as whoever holds a link to it is shown it."""

    model_config = example(examples.LINKED_APPROVAL)

    id: UUID
    task_name: str
    kind: QuestionKind = Field(description="tool, question, form or budget.")
    title: str
    tool: str | None
    arguments: dict[str, Any] = Field(
        description="What the tool is to be called with; very long texts are clipped."
    )
    answer_schema: dict[str, Any] | None = Field(
        alias="schema", description="JSON schema of the answer's value, where there is one."
    )
    status: ApprovalStatus
    expires_at: datetime
    approved: bool | None = Field(description="null while it is open.")
    answered_at: datetime | None


class ApprovalLink(Wire):
    """A link with which anybody answers one question, once."""

    model_config = example(examples.APPROVAL_LINK)

    url: str = Field(description="Keep it as secret as the answer is important.")
    expires_at: datetime


class Approval(LinkedApproval):
    """A question that an agent asks a person, and the answer if there is one."""

    model_config = example(examples.APPROVAL)

    execution_id: UUID
    task_id: UUID
    owner_id: UUID
    attempt: int = Field(description="The attempt that asked first.")
    key: str = Field(description="Names the question within its execution.")
    on_expiry: OnExpiry = Field(
        description="What follows when nobody answers: deny, approve or fail."
    )
    default: Any = Field(description="The value of an expiry that approves.")
    created_at: datetime
    value: Any = Field(
        description="The text or the form's value; for a tool, other arguments where the person "
        "changed them."
    )
    note: str | None
    answered_by: str | None = Field(
        description="The user's name, `approval link`, or `expiry` where nobody answered in time."
    )
    links: Links = Field(alias="_links")
