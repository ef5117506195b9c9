"""A live connection to one MCP server, for one run."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    CONNECTION_CLOSED,
    CallToolResult,
    Implementation,
    RequestParamsMeta,
    Tool,
)

from celeriac.agents.child.run import LogRelay
from celeriac.agents.mcp.mending import Mending
from celeriac.agents.mcp.results import error_text, sanitize_json
from celeriac.agents.mcp.servers import HttpServer, ResolvedServer, StdioServer
from celeriac.agents.mcp.stdio import MAX_MESSAGE_BYTES, ExitDetails, stdio_streams
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    ExecutionError,
    SchemaInvalidError,
    ToolServerError,
)
from celeriac.domain.schemas import check_schema
from celeriac.kit.loop import run_shielded
from celeriac.kit.outbound import OutboundRefusedError, guarded_client
from celeriac.services.catalog.schemas import violations
from celeriac.version import __version__

T = TypeVar("T")

START_SECONDS = 30.0
"""How long a server may take until it has said what it offers."""
MAX_PAGES = 20
"""Pages of a server's list of tools that are read."""

_CLOSE_SECONDS = 0.5


class Connection:
    """Lives in a task of its own, so that a transport that breaks breaks nothing else.

    Belongs to the event loop; its calls may run side by side.
    """

    def __init__(self, chosen: ResolvedServer, *, workdir: Path, relay: LogRelay) -> None:
        """Lead to `chosen`; a program works in `workdir`, and `relay` takes its stderr."""
        self.chosen = chosen
        self._workdir = workdir
        self._relay = relay
        self._words = ExitDetails()
        self._mending = Mending()
        self._closing = asyncio.Event()
        self._ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._life: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The server's name."""
        return self.chosen.entry.name

    async def open(self) -> list[Tool]:
        """Connect and return the tools that the server offers.

        Raises ToolServerError, and AgentMisconfiguredError for an address that is refused.
        """
        self._life = asyncio.create_task(self._live(), name=f"mcp {self.name}")
        try:
            async with asyncio.timeout(START_SECONDS):
                client = await self._while_alive(self._ready)
                return await self._while_alive(_all_tools(client))
        except TimeoutError as error:
            raise self._failed(f"isn't ready after {START_SECONDS:g} seconds") from error
        except (MCPError, ValueError, RuntimeError) as error:
            raise self._failed(f"can't be used: {error_text(error)}") from error

    async def call(
        self, tool: str, arguments: Mapping[str, Any], *, meta: RequestParamsMeta
    ) -> CallToolResult:
        """Call a tool, within the entry's time limit.

        Raises TimeoutError; MCPError, ValueError or RuntimeError for an answer that is an error or
        is malformed; ToolServerError where the connection broke off.
        """
        client = self._ready.result()
        try:
            async with asyncio.timeout(self.chosen.entry.timeout_seconds):
                return await self._while_alive(client.call_tool(tool, dict(arguments), meta=meta))
        except MCPError as error:
            if error.code == CONNECTION_CLOSED:
                raise await self._closed() from error
            raise
        except (anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            raise await self._closed() from error

    def mismatch(self, tool: str, result: CallToolResult) -> str:
        """Return in a note what a result lacks of what its tool promises; empty where nothing."""
        schema = self._mending.output_schemas.get(tool)
        if schema is None or result.is_error:
            return ""
        if result.structured_content is None:
            return "the tool's output schema promises structured content, and there is none"
        try:
            check_schema(dict(schema), field="outputSchema")
            faults = violations(dict(schema), sanitize_json(result.structured_content))
        except SchemaInvalidError:
            return ""
        return f"it doesn't fit the tool's output schema: {'; '.join(faults)}" if faults else ""

    async def aclose(self) -> None:
        """Hang up within a second; a program and all that it started is gone then."""
        await run_shielded(self._close())

    async def _close(self) -> None:
        if self._life is None:
            return
        self._closing.set()
        if self._ready.done():
            await asyncio.wait([self._life], timeout=_CLOSE_SECONDS)
        self._life.cancel()
        await asyncio.wait([self._life])

    async def _live(self) -> None:
        async with (
            self._transport() as transport,
            Client(self._mending.of(transport), client_info=_US) as client,
        ):
            self._ready.set_result(client)
            await self._closing.wait()

    @asynccontextmanager
    async def _transport(self) -> AsyncIterator[AbstractAsyncContextManager[Any]]:
        match self.chosen.endpoint:
            case StdioServer() as server:
                yield stdio_streams(
                    server, workdir=self._workdir, on_line=self._log, words=self._words
                )
            case HttpServer() as server:
                async with guarded_client(
                    server.guard,
                    # a tool is silent for as long as it works; the call has its own limit
                    timeout_seconds=self.chosen.entry.timeout_seconds + START_SECONDS,
                    max_bytes=MAX_MESSAGE_BYTES,
                    headers=dict(server.headers),
                ) as http:
                    yield streamable_http_client(server.url, http_client=http)

    async def _log(self, line: str) -> None:
        await self._relay.write(line, source=f"mcp:{self.name}")

    async def _while_alive(self, work: Awaitable[T]) -> T:
        """Wait for `work`, at most as long as the connection lives."""
        assert self._life is not None
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._life}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise self._broken()
            return task.result()
        finally:
            if task is not self._ready:
                task.cancel()

    async def _closed(self) -> ExecutionError:
        """Return the error for a connection that is closed; its task may know why in a moment."""
        assert self._life is not None
        await asyncio.wait([self._life], timeout=_CLOSE_SECONDS)
        return self._broken() if self._life.done() else self._failed("broke off")

    def _broken(self) -> ExecutionError:
        assert self._life is not None
        error = None if self._life.cancelled() else self._life.exception()
        if error is None:
            return self._failed("broke off")
        cause = _first(error)
        if isinstance(cause, OutboundRefusedError):
            return AgentMisconfiguredError(
                f"The agent's MCP server {self.name!r} can't be reached: {cause}",
                field=f"{self.chosen.field}.url",
            )
        if self._ready.done():
            return self._failed(f"broke off: {error_text(cause)}")
        if isinstance(cause, httpx2.HTTPError | OSError):
            return self._failed(f"can't be reached: {error_text(cause)}")
        return self._failed(f"can't be used: {error_text(cause)}")

    def _failed(self, what: str) -> ToolServerError:
        words = str(self._words)
        return ToolServerError(
            f"The MCP server {self.name!r} {what}{f' ({words})' if words else ''}.",
            server=self.name,
            field=self.chosen.field,
        )


_US = Implementation(name="celeriac", version=__version__)


async def _all_tools(client: Client) -> list[Tool]:
    tools: list[Tool] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools.extend(page.tools)
        cursor = page.next_cursor
        if cursor is None:
            break
    return tools


def _first(error: BaseException) -> BaseException:
    """Return what really happened: task groups wrap it, several times over."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
