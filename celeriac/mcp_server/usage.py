"""The tool that tells what models have used."""

from datetime import date
from typing import Annotated

from mcp.server.mcpserver.tools import Tool
from pydantic import BaseModel, Field

from celeriac import wire
from celeriac.domain.usage import UsageBy
from celeriac.mcp_server.access import Access, ToolContext
from celeriac.mcp_server.parameters import Limit
from celeriac.mcp_server.toolbox import READS, make_tool


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
