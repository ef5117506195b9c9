"""Tools: what an execution left behind, in pieces that fit a model's context."""

from itertools import islice
from typing import Annotated, Any, Literal

from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from pydantic import Field

from celeriac import wire
from celeriac.domain.states import Status
from celeriac.kit.jsontypes import dumps
from celeriac.mcp_server.access import Access, ToolContext
from celeriac.mcp_server.parameters import Characters, ExecutionId, Limit, Offset
from celeriac.mcp_server.toolbox import READS, make_tool
from celeriac.mcp_server.views import EventPage, TextPage

_PIECE = 20_000
MAX_TEXT = 2_000
"""Characters of one text in an event that are shown."""


def reading_tools(access: Access) -> list[Tool]:
    """Return list_events, get_result and get_report."""

    def list_events(
        ctx: ToolContext,
        execution_id: ExecutionId,
        after: Annotated[int, Field(ge=0, description="Only those numbered above it.")] = 0,
        limit: Limit = 50,
    ) -> EventPage:
        """Read an execution's log: messages, tool calls, model calls, log lines, changes of state.

        Texts of more than 2,000 characters are cut; the report has them all.
        """
        with access.client(ctx) as client:
            found = list(islice(client.executions.events(execution_id, after=after), limit + 1))
        shown = [_clipped(each) for each in found[:limit]]
        last = shown[-1].seq if shown else after
        return EventPage(events=shown, next_after=last, more=len(found) > limit)

    def get_result(
        ctx: ToolContext,
        execution_id: ExecutionId,
        offset: Offset = 0,
        characters: Characters = _PIECE,
    ) -> TextPage:
        """Read the result of a completed execution as JSON text, piece by piece."""
        with access.client(ctx) as client:
            execution = client.executions.get(execution_id)
        if execution.status is not Status.COMPLETED:
            raise ToolError(
                f"The execution is {execution.status.value}; it has no result. [no_result]\n"
                + (
                    "get_execution shows its error."
                    if execution.status.terminal
                    else "wait_for_execution waits for its end."
                )
            )
        return _piece(dumps(execution.result), offset, characters)

    def get_report(
        ctx: ToolContext,
        execution_id: ExecutionId,
        format: Literal["markdown", "html"] = "markdown",  # noqa: A002 - the API's own word
        offset: Offset = 0,
        characters: Characters = _PIECE,
    ) -> TextPage:
        """Read the report of an execution that has ended, piece by piece.

        It has the result, the timeline, messages, tool calls and costs.
        """
        with access.client(ctx) as client:
            text = client.executions.report(execution_id, format=format)
        return _piece(text, offset, characters)

    return [
        make_tool(list_events, "Read events", READS),
        make_tool(get_result, "Read a long result", READS),
        make_tool(get_report, "Read a report", READS),
    ]


def _piece(text: str, offset: int, characters: int) -> TextPage:
    end = offset + characters
    return TextPage(
        text=text[offset:end],
        offset=offset,
        total_characters=len(text),
        next_offset=end if end < len(text) else None,
    )


def _clipped(event: wire.Event) -> wire.Event:
    return event.model_copy(update={"data": _cut(event.data)})


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"{value[:MAX_TEXT]}… ({len(value) - MAX_TEXT:,} more characters)"
    if isinstance(value, dict):
        return {key: _cut(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_cut(each) for each in value]
    return value
