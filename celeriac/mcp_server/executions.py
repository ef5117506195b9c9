"""Tools that list, show, cancel, wait for and read executions."""

import asyncio
import time
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from pydantic import Field

from celeriac import wire
from celeriac.client import Client
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.states import Status
from celeriac.kit.json_types import dumps
from celeriac.kit.text import clip_values
from celeriac.kit.threads import Threads
from celeriac.mcp_server.access import Access, ToolContext
from celeriac.mcp_server.toolbox import (
    ENDS,
    READS,
    Characters,
    ExecutionId,
    Limit,
    Offset,
    TaskFilter,
    first,
    make_tool,
)
from celeriac.mcp_server.views import (
    EventPage,
    ExecutionBrief,
    ExecutionList,
    ExecutionState,
    TextPage,
    WaitedFor,
)


def execution_tools(access: Access) -> list[Tool]:
    """Return list_executions, get_execution and cancel_execution."""

    def list_executions(
        ctx: ToolContext,
        *,
        limit: Limit = 20,
        status: Annotated[
            list[Status], Field(description="Only those with one of these; all if empty.")
        ] = [],  # noqa: B006 - a schema's default; the library copies it
        task: TaskFilter = None,
        created_after: Annotated[datetime | None, Field(description="With a time zone.")] = None,
        created_before: Annotated[
            datetime | None, Field(description="With a time zone; for the next page.")
        ] = None,
    ) -> ExecutionList:
        """List executions, newest first."""
        with access(ctx) as client:
            executions = client.executions.list(
                status=[each.value for each in status] or None,
                task=task,
                created_after=created_after,
                created_before=created_before,
            )
            found, more = first(executions, limit)
        briefs = [ExecutionBrief.of(each, task=each.task_name) for each in found]
        return ExecutionList(executions=briefs, more=more)

    def get_execution(ctx: ToolContext, execution_id: ExecutionId) -> ExecutionState:
        """Show the state of an execution: status, progress, result or error, cost."""
        with access(ctx) as client:
            return ExecutionState.of(client.executions.get(execution_id))

    def cancel_execution(ctx: ToolContext, execution_id: ExecutionId) -> ExecutionState:
        """Cancel an execution: at once if it waits, within seconds if it runs.

        A running one is still `running` in the answer; wait_for_execution returns its end.
        """
        with access(ctx) as client:
            return ExecutionState.of(client.executions.cancel(execution_id))

    return [
        make_tool(list_executions, "List executions", READS),
        make_tool(get_execution, "Show an execution", READS),
        make_tool(cancel_execution, "Cancel an execution", ENDS),
    ]


_PART = 20_000
MAX_TEXT = 2_000
"""The longest text in an event of `list_events`, in characters."""


def reading_tools(access: Access) -> list[Tool]:
    """Return list_events, get_result and get_report."""

    def list_events(
        ctx: ToolContext,
        execution_id: ExecutionId,
        after: Annotated[int, Field(ge=0, description="Only those with a higher number.")] = 0,
        limit: Limit = 50,
    ) -> EventPage:
        """Read an execution's log: messages, tool calls, model calls, log lines, status changes.

        Texts of more than 2,000 characters are cut; the report has them in full.
        """
        with access(ctx) as client:
            found, more = first(client.executions.events(execution_id, after=after), limit)
        shown = [
            each.model_copy(update={"data": clip_values(each.data, MAX_TEXT)}) for each in found
        ]
        return EventPage(events=shown, next_after=shown[-1].seq if shown else after, more=more)

    def get_result(
        ctx: ToolContext,
        execution_id: ExecutionId,
        offset: Offset = 0,
        characters: Characters = _PART,
    ) -> TextPage:
        """Read the result of a completed execution as JSON text, part by part."""
        with access(ctx) as client:
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
        return TextPage.of(dumps(execution.result), offset, characters)

    def get_report(
        ctx: ToolContext,
        execution_id: ExecutionId,
        format: Literal["markdown", "html"] = "markdown",  # noqa: A002 - the API's own word
        offset: Offset = 0,
        characters: Characters = _PART,
    ) -> TextPage:
        """Read the report of an execution that has ended, part by part.

        It has the result, the timeline, messages, tool calls and costs.
        """
        with access(ctx) as client:
            text = client.executions.report(execution_id, format=format)
        return TextPage.of(text, offset, characters)

    return [
        make_tool(list_events, "Read events", READS),
        make_tool(get_result, "Read a long result", READS),
        make_tool(get_report, "Read a report", READS),
    ]


MAX_SECONDS = 600.0
_DEFAULT_SECONDS = 30.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0
_PAUSE_FACTOR = 1.5
_ABOUT_QUESTIONS = {EventType.APPROVAL_ASKED, EventType.APPROVAL_ANSWERED}
_REQUESTS = Threads("requests", 16)


def waiting_tools(access: Access) -> list[Tool]:
    """Return wait_for_execution."""

    async def wait_for_execution(
        ctx: ToolContext,
        *,
        execution_id: ExecutionId,
        timeout_seconds: Annotated[
            float, Field(ge=0, le=MAX_SECONDS, description="The longest time to wait.")
        ] = _DEFAULT_SECONDS,
        stop_at_question: Annotated[
            bool, Field(description="Return as soon as it asks a person something.")
        ] = True,
    ) -> WaitedFor:
        """Wait until an execution has ended, and return its state.

        After the timeout its current state is returned, with `ended` false: it continues, and you
        may wait again. Progress is reported meanwhile.
        """
        with access(ctx) as client:
            wait = _Wait(client, execution_id, ctx)
            return await wait.until_end(timeout_seconds, stop_at_question=stop_at_question)

    return [make_tool(wait_for_execution, "Wait for an execution", READS)]


class _Wait:
    """Polls one execution; a cancellation takes effect between two requests."""

    def __init__(self, client: Client, execution_id: UUID, context: ToolContext) -> None:
        self._client = client
        self._id = execution_id
        self._context = context
        self._seen = 0
        self._asks = False

    async def until_end(self, seconds: float, *, stop_at_question: bool) -> WaitedFor:
        """Return the execution when it has ended or asks a person, or when the time is over."""
        deadline = time.monotonic() + seconds
        execution = await self._get()
        self._seen = execution.event_count
        self._asks = not execution.status.terminal and await self._has_question()
        await self._report(execution)
        pause = _FIRST_PAUSE_SECONDS
        while not execution.status.terminal and time.monotonic() < deadline:
            if stop_at_question and self._asks:
                break
            await asyncio.sleep(min(pause, max(deadline - time.monotonic(), 0)))
            pause = min(pause * _PAUSE_FACTOR, _LONGEST_PAUSE_SECONDS)
            if await self._has_changed():
                execution = await self._get()
                await self._report(execution)
        return WaitedFor.of(execution, asks=self._asks and not execution.status.terminal)

    async def _get(self) -> wire.Execution:
        return await _REQUESTS.run(self._client.executions.get, self._id)

    async def _has_question(self) -> bool:
        questions = self._client.approvals.list(status="open", execution_id=self._id)
        return await _REQUESTS.run(next, questions, None) is not None

    async def _has_changed(self) -> bool:
        """Whether there are new events: they are small, the whole execution may be large."""
        events = await _REQUESTS.run(
            lambda: list(self._client.executions.events(self._id, after=self._seen))
        )
        if events:
            self._seen = events[-1].seq
        kinds = {each.type for each in events}
        if kinds & _ABOUT_QUESTIONS:
            self._asks = await self._has_question()
        return bool(kinds - {EventType.LOG})

    async def _report(self, execution: wire.Execution) -> None:
        progress = execution.progress
        message = execution.status.value
        if execution.waiting_for is not None:
            message += f" for {execution.waiting_for.value}"
        if progress is not None:
            of = "" if progress.total is None else f" of {progress.total:g}"
            note = f": {progress.note}" if progress.note else ""
            message += f", {progress.done:g}{of}{note}"
        # MCP wants a number that grows: that of events does, the agent's progress may not
        await self._context.report_progress(self._seen, None, message)
