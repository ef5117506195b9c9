"""Tools: the questions that agents ask people, and the answers."""

from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from mcp.server.mcpserver.tools import Tool
from pydantic import BaseModel, Field

from celeriac import wire
from celeriac.domain.approvals import ApprovalStatus, OnExpiry, QuestionKind
from celeriac.mcp_server.access import Access, ToolContext
from celeriac.mcp_server.toolbox import ENDS, READS, Limit, make_tool


class ApprovalView(BaseModel):
    """A question, and its answer if there is one."""

    id: UUID
    execution_id: UUID
    kind: QuestionKind = Field(
        description="tool: may it be called? question: a text. form: a value that fits "
        "answer_schema. budget: may it go on?"
    )
    title: str
    tool: str | None
    arguments: dict[str, Any] = Field(description="What the tool would be called with.")
    answer_schema: dict[str, Any] | None
    status: ApprovalStatus
    expires_at: datetime
    on_expiry: OnExpiry = Field(description="What follows when nobody answers in time.")
    approved: bool | None
    value: Any
    note: str | None
    answered_by: str | None

    @classmethod
    def of(cls, approval: wire.Approval) -> Self:
        """Return what a model needs of `approval`."""
        return cls(
            answer_schema=approval.answer_schema,
            **{
                name: getattr(approval, name)
                for name in cls.model_fields
                if name != "answer_schema"
            },
        )


class ApprovalList(BaseModel):
    """Questions, the newest first."""

    approvals: list[ApprovalView]
    more: bool = Field(description="Whether there are others that `limit` left out.")


def approval_tools(access: Access) -> list[Tool]:
    """Return list_approvals and answer_approval."""

    def list_approvals(
        ctx: ToolContext,
        *,
        status: Annotated[
            Literal["open", "answered", "expired", "withdrawn"] | None,
            Field(description="Only those that stand so; all if null."),
        ] = "open",
        execution_id: Annotated[
            UUID | None, Field(description="Only those of this execution.")
        ] = None,
        limit: Limit = 50,
    ) -> ApprovalList:
        """List questions that running agents ask people; executions wait for the answers."""
        with access.client(ctx) as client:
            found = list(
                islice(client.approvals.list(status=status, execution_id=execution_id), limit + 1)
            )
        views = [ApprovalView.of(each) for each in found[:limit]]
        return ApprovalList(approvals=views, more=len(found) > limit)

    def answer_approval(
        ctx: ToolContext,
        approval_id: UUID,
        *,
        approved: Annotated[bool, Field(description="Yes or no.")],
        value: Annotated[
            Any,
            Field(
                description="The text of a free question, the value of a form or, for a tool, "
                "other arguments than asked for."
            ),
        ] = None,
        note: Annotated[
            str, Field(max_length=10_000, description="A reason, which the agent is told.")
        ] = "",
    ) -> ApprovalView:
        """Answer an open question for good, and let its execution go on.

        It is a person's to answer: call this with what the person you act for has decided, never
        on your own.
        """
        with access.client(ctx) as client:
            return ApprovalView.of(
                client.approvals.answer(approval_id, approved=approved, value=value, note=note)
            )

    return [
        make_tool(list_approvals, "List questions to people", READS),
        make_tool(answer_approval, "Answer a question", ENDS),
    ]
