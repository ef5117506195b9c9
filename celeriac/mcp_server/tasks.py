"""Tools for tasks, approvals and usage."""

from datetime import date
from typing import Annotated, Any, Literal
from uuid import UUID

from mcp.server.mcpserver.tools import Tool
from pydantic import Field

from celeriac.domain.usage import UsageBy
from celeriac.mcp_server.access import Access, ToolContext
from celeriac.mcp_server.toolbox import (
    ADDS,
    ENDS,
    READS,
    Limit,
    TaskFilter,
    TaskName,
    first,
    make_tool,
)
from celeriac.mcp_server.views import (
    Accepted,
    ApprovalList,
    ApprovalView,
    TaskBrief,
    TaskDetails,
    TaskList,
    UsageList,
)


def task_tools(access: Access) -> list[Tool]:
    """Return list_tasks, get_task and execute_task."""

    def list_tasks(
        ctx: ToolContext,
        *,
        limit: Limit = 50,
        active_only: Annotated[
            bool, Field(description="Leave out tasks that take no new executions.")
        ] = True,
    ) -> TaskList:
        """List the tasks that can be executed, newest first."""
        with access(ctx) as client:
            found, more = first(client.tasks.list(active=active_only or None), limit)
        briefs = [TaskBrief.of(each, agent=each.agent.name) for each in found]
        return TaskList(tasks=briefs, more=more)

    def get_task(ctx: ToolContext, task: TaskName) -> TaskDetails:
        """Show a task: its prompt, the schema of its variables, the schema of its result."""
        with access(ctx) as client:
            found = client.tasks.get(task)
        spec = found.spec
        return TaskDetails.of(
            found,
            agent=found.agent.name,
            prompt=spec.prompt,
            variables_schema=dict(spec.variables_schema),
            output_schema=None if spec.output_schema is None else dict(spec.output_schema),
            hard_seconds=spec.limits.hard_seconds,
            max_retries=spec.retry.max_retries,
        )

    def execute_task(
        ctx: ToolContext,
        *,
        task: TaskName,
        variables: Annotated[
            dict[str, Any], Field(description="They must fit the task's variables_schema.")
        ] = {},  # noqa: B006 - a schema's default; the library copies it
        priority: Annotated[
            Literal["low", "normal", "high", "critical"] | None,
            Field(description="The task's own if null."),
        ] = None,
        delay_seconds: Annotated[float | None, Field(ge=0, description="Start it later.")] = None,
        expires_in: Annotated[
            float | None,
            Field(gt=0, description="Cancel it if it has not begun after so many seconds."),
        ] = None,
        session_id: Annotated[
            UUID | None, Field(description="The session of an earlier execution to continue.")
        ] = None,
        fork_session: Annotated[
            bool, Field(description="Continue a copy; the session is not changed.")
        ] = False,
        idempotency_key: Annotated[
            str | None,
            Field(
                min_length=1,
                max_length=200,
                description="The same key with the same arguments returns the same execution. Set "
                "it if you may have to repeat the call.",
            ),
        ] = None,
    ) -> Accepted:
        """Start a task in the background and return its execution at once.

        Follow it with wait_for_execution or get_execution.
        """
        with access(ctx) as client:
            accepted = client.executions.execute(
                task,
                variables,
                delay_seconds=delay_seconds,
                expires_in=expires_in,
                idempotency_key=idempotency_key,
                priority=priority,
                session_id=session_id,
                fork_session=fork_session,
            )
        return Accepted.of(accepted)

    return [
        make_tool(list_tasks, "List tasks", READS),
        make_tool(get_task, "Show a task", READS),
        make_tool(execute_task, "Start a task", ADDS),
    ]


def approval_tools(access: Access) -> list[Tool]:
    """Return list_approvals and answer_approval."""

    def list_approvals(
        ctx: ToolContext,
        *,
        status: Annotated[
            Literal["open", "answered", "expired", "withdrawn"] | None,
            Field(description="Only those with this status; all if null."),
        ] = "open",
        execution_id: Annotated[
            UUID | None, Field(description="Only those of this execution.")
        ] = None,
        limit: Limit = 50,
    ) -> ApprovalList:
        """List questions to people; executions and workflow runs wait for the answers."""
        with access(ctx) as client:
            approvals = client.approvals.list(status=status, execution_id=execution_id)
            found, more = first(approvals, limit)
        return ApprovalList(approvals=[ApprovalView.of(each) for each in found], more=more)

    def answer_approval(
        ctx: ToolContext,
        approval_id: UUID,
        *,
        approved: Annotated[bool, Field(description="Yes or no.")],
        value: Annotated[
            Any,
            Field(
                description="The text for a question, the value for a form, or other arguments "
                "for a tool."
            ),
        ] = None,
        note: Annotated[
            str, Field(max_length=10_000, description="A reason, which the agent gets.")
        ] = "",
    ) -> ApprovalView:
        """Answer an open question; the answer is final, and what waits for it continues.

        The answer is a person's decision: call this only with what the person you act for has
        decided, never on your own.
        """
        with access(ctx) as client:
            return ApprovalView.of(
                client.approvals.answer(approval_id, approved=approved, value=value, note=note)
            )

    return [
        make_tool(list_approvals, "List questions to people", READS),
        make_tool(answer_approval, "Answer a question", ENDS),
    ]


def usage_tools(access: Access) -> list[Tool]:
    """Return get_usage."""

    def get_usage(
        ctx: ToolContext,
        *,
        by: Annotated[UsageBy, Field(description="The group of a total.")] = UsageBy.DAY,
        since: Annotated[date | None, Field(description="First day; 30 days ago if null.")] = None,
        until: Annotated[date | None, Field(description="Last day; today if null.")] = None,
        task: TaskFilter = None,
        limit: Limit = 50,
    ) -> UsageList:
        """Show the tokens and the cost of model calls, by day, task, user or model."""
        with access(ctx) as client:
            found = client.usage.totals(by.value, since=since, until=until, task=task, limit=limit)
        return UsageList(totals=found.items)

    return [make_tool(get_usage, "Show usage and costs", READS)]
