"""Tools that run executions, read them and wait for them."""

import asyncio
import time
from datetime import datetime
from itertools import islice
from typing import Annotated, Self
from uuid import UUID

from mcp.server.mcpserver.tools import Tool
from pydantic import Field

from celeriac import wire
from celeriac.client import Client
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.states import Status
from celeriac.kit.threads import Threads
from celeriac.mcp_server.access import Access, ToolContext
from celeriac.mcp_server.toolbox import ENDS, READS, ExecutionId, Limit, make_tool
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


MAX_SECONDS = 600.0
_DEFAULT_SECONDS = 30.0
_FIRST_LOOK_SECONDS = 0.1
_LONGEST_LOOK_SECONDS = 1.0
_SLOWER = 1.5
_ABOUT_QUESTIONS = {EventType.APPROVAL_ASKED, EventType.APPROVAL_ANSWERED}
_REQUESTS = Threads("requests", 16)


class WaitedFor(ExecutionState):
    """An execution after a wait."""

    asks: bool = Field(description="Whether it asks a person something: see list_approvals.")

    @classmethod
    def after(cls, execution: wire.Execution, *, asks: bool) -> Self:
        """Return `execution` as it stands after a wait."""
        asks = asks and not execution.status.terminal
        return cls(asks=asks, **ExecutionState.of(execution).model_dump())


def waiting_tools(access: Access) -> list[Tool]:
    """Return wait_for_execution."""

    async def wait_for_execution(
        ctx: ToolContext,
        *,
        execution_id: ExecutionId,
        timeout_seconds: Annotated[
            float, Field(ge=0, le=MAX_SECONDS, description="How long to wait at most.")
        ] = _DEFAULT_SECONDS,
        stop_at_question: Annotated[
            bool, Field(description="Return as soon as it asks a person something.")
        ] = True,
    ) -> WaitedFor:
        """Wait until an execution has ended, and return how it stands then.

        When the time is over it is returned as it stands, with `ended` false: it goes on by
        itself, and you may wait again. Progress is told meanwhile.
        """
        with access.client(ctx) as client:
            watch = _Watch(client, execution_id, ctx)
            return await watch.until_end(timeout_seconds, stop_at_question=stop_at_question)

    return [make_tool(wait_for_execution, "Wait for an execution", READS)]


class _Watch:
    """Looks at one execution again and again; a cancellation ends it between two looks."""

    def __init__(self, client: Client, execution_id: UUID, context: ToolContext) -> None:
        self._client = client
        self._id = execution_id
        self._context = context
        self._seen = 0
        self._asked = False

    async def until_end(self, seconds: float, *, stop_at_question: bool) -> WaitedFor:
        """Return the execution once it has ended, asks a person, or the time is over."""
        deadline = time.monotonic() + seconds
        execution = await self._look()
        self._seen = execution.event_count
        self._asked = not execution.status.terminal and await self._has_question()
        await self._tell(execution)
        pause = _FIRST_LOOK_SECONDS
        while not execution.status.terminal and time.monotonic() < deadline:
            if stop_at_question and self._asked:
                break
            await asyncio.sleep(min(pause, max(deadline - time.monotonic(), 0)))
            pause = min(pause * _SLOWER, _LONGEST_LOOK_SECONDS)
            if await self._has_news():
                execution = await self._look()
                await self._tell(execution)
        return WaitedFor.after(execution, asks=self._asked)

    async def _look(self) -> wire.Execution:
        return await _REQUESTS.run(self._client.executions.get, self._id)

    async def _has_question(self) -> bool:
        questions = self._client.approvals.list(status="open", execution_id=self._id)
        return await _REQUESTS.run(next, questions, None) is not None

    async def _has_news(self) -> bool:
        """Whether there are new events: small to ask for, where a whole row may be large."""
        news = await _REQUESTS.run(
            lambda: list(self._client.executions.events(self._id, after=self._seen))
        )
        if news:
            self._seen = news[-1].seq
        kinds = {each.type for each in news}
        if kinds & _ABOUT_QUESTIONS:
            self._asked = await self._has_question()
        return bool(kinds - {EventType.LOG})

    async def _tell(self, execution: wire.Execution) -> None:
        told = execution.progress
        message = execution.status.value
        if execution.waiting_for is not None:
            message += f" for {execution.waiting_for.value}"
        if told is not None:
            of = "" if told.total is None else f" of {told.total:g}"
            message += f", {told.done:g}{of}" + (f": {told.note}" if told.note else "")
        # the number of events is what always grows; the work's own figures need not
        await self._context.report_progress(self._seen, None, message)
