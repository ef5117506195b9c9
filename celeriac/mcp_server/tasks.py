"""Tools that list tasks and usage."""

from datetime import date
from itertools import islice
from typing import Annotated, Any, Literal
from uuid import UUID

from mcp.server.mcpserver.tools import Tool
from pydantic import BaseModel, Field

from celeriac import wire
from celeriac.client.executions import ExecutionOptions
from celeriac.domain.usage import UsageBy
from celeriac.mcp_server.access import Access, ToolContext
from celeriac.mcp_server.toolbox import ADDS, READS, Limit, TaskName, make_tool
from celeriac.mcp_server.views import Accepted, TaskBrief, TaskDetails, TaskList

PriorityName = Literal["low", "normal", "high", "critical"]


def task_tools(access: Access) -> list[Tool]:
    """Return list_tasks, get_task and execute_task."""

    def list_tasks(
        ctx: ToolContext,
        *,
        limit: Limit = 50,
        active_only: Annotated[
            bool, Field(description="Leave out those that take no new executions.")
        ] = True,
    ) -> TaskList:
        """List the tasks that can be executed, the newest first."""
        with access.client(ctx) as client:
            found = list(islice(client.tasks.list(active=active_only or None), limit + 1))
        briefs = [TaskBrief.of(each) for each in found[:limit]]
        return TaskList(tasks=briefs, more=len(found) > limit)

    def get_task(ctx: ToolContext, task: TaskName) -> TaskDetails:
        """Show a task: its prompt, the schema of its variables, the schema of its result."""
        with access.client(ctx) as client:
            return TaskDetails.of(client.tasks.get(task))

    def execute_task(
        ctx: ToolContext,
        *,
        task: TaskName,
        variables: Annotated[
            dict[str, Any], Field(description="They must fit the task's variables_schema.")
        ] = {},  # noqa: B006 - a schema's default; the library copies it
        priority: Annotated[
            PriorityName | None, Field(description="Among those that wait; the task's own if null.")
        ] = None,
        delay_seconds: Annotated[
            float | None, Field(ge=0, description="It is not started before.")
        ] = None,
        session_id: Annotated[
            UUID | None, Field(description="An earlier conversation to go on with.")
        ] = None,
        fork_session: Annotated[
            bool, Field(description="Go on with a copy; the session stays as it is.")
        ] = False,
        idempotency_key: Annotated[
            str | None,
            Field(
                min_length=1,
                max_length=200,
                description="Sent again with the same arguments, the same execution is returned "
                "and nothing runs twice. Give one when you may have to repeat the call.",
            ),
        ] = None,
    ) -> Accepted:
        """Start a task in the background and return its execution at once.

        Follow it with wait_for_execution or get_execution.
        """
        wishes = ExecutionOptions(
            priority=priority, session_id=session_id, fork_session=fork_session
        )
        with access.client(ctx) as client:
            accepted = client.executions.execute(
                task,
                variables,
                delay_seconds=delay_seconds,
                idempotency_key=idempotency_key,
                **wishes,
            )
        return Accepted(
            execution_id=accepted.execution_id, task_id=accepted.task_id, status=accepted.status
        )

    return [
        make_tool(list_tasks, "List tasks", READS),
        make_tool(get_task, "Show a task", READS),
        make_tool(execute_task, "Start a task", ADDS),
    ]


class UsageList(BaseModel):
    """Totals: the newest days first, of all else the dearest first. Costs in US dollars."""

    totals: list[wire.UsageTotal]


def usage_tools(access: Access) -> list[Tool]:
    """Return get_usage."""

    def get_usage(
        ctx: ToolContext,
        *,
        by: Annotated[UsageBy, Field(description="What is added up.")] = UsageBy.DAY,
        since: Annotated[date | None, Field(description="First day; 30 days ago if null.")] = None,
        until: Annotated[date | None, Field(description="Last day; today if null.")] = None,
        task: Annotated[
            str | None, Field(max_length=200, description="Only of this task: name or id.")
        ] = None,
        limit: Limit = 50,
    ) -> UsageList:
        """Tell how many tokens model calls used and what they cost, by day, task, user or model."""
        with access.client(ctx) as client:
            found = client.usage.totals(by.value, since=since, until=until, task=task, limit=limit)
        return UsageList(totals=found.items)

    return [make_tool(get_usage, "Show usage and costs", READS)]
