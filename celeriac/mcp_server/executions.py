"""Tools: executions as they stand, and ending them."""

from datetime import datetime
from itertools import islice
from typing import Annotated

from mcp.server.mcpserver.tools import Tool
from pydantic import Field

from celeriac.domain.states import Status
from celeriac.mcp_server.access import Access, ToolContext
from celeriac.mcp_server.parameters import ExecutionId, Limit
from celeriac.mcp_server.toolbox import ENDS, READS, make_tool
from celeriac.mcp_server.views import ExecutionBrief, ExecutionList, ExecutionState


def execution_tools(access: Access) -> list[Tool]:
    """Return list_executions, get_execution and cancel_execution."""

    def list_executions(
        ctx: ToolContext,
        *,
        limit: Limit = 20,
        status: Annotated[
            list[Status], Field(description="Only those that stand so; all if empty.")
        ] = [],  # noqa: B006 - a schema's default; the library copies it
        task: Annotated[
            str | None, Field(max_length=200, description="Only of this task: name or id.")
        ] = None,
        created_after: Annotated[datetime | None, Field(description="With a time zone.")] = None,
        created_before: Annotated[
            datetime | None, Field(description="With a time zone; for older ones, page by page.")
        ] = None,
    ) -> ExecutionList:
        """List executions, the newest first."""
        with access.client(ctx) as client:
            pages = client.executions.list(
                status=[each.value for each in status] or None,
                task=task,
                created_after=created_after,
                created_before=created_before,
            )
            found = list(islice(pages, limit + 1))
        briefs = [ExecutionBrief.of(each) for each in found[:limit]]
        return ExecutionList(executions=briefs, more=len(found) > limit)

    def get_execution(ctx: ToolContext, execution_id: ExecutionId) -> ExecutionState:
        """Show how an execution stands: status, progress, result or error, cost."""
        with access.client(ctx) as client:
            return ExecutionState.of(client.executions.get(execution_id))

    def cancel_execution(ctx: ToolContext, execution_id: ExecutionId) -> ExecutionState:
        """End an execution: at once where it waits, within seconds where it runs.

        A running one is still `running` in the answer; wait_for_execution sees its end.
        """
        with access.client(ctx) as client:
            return ExecutionState.of(client.executions.cancel(execution_id))

    return [
        make_tool(list_executions, "List executions", READS),
        make_tool(get_execution, "Show an execution", READS),
        make_tool(cancel_execution, "Cancel an execution", ENDS),
    ]
