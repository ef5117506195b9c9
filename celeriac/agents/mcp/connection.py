"""The connection of a run to one MCP server."""

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
from celeriac.agents.mcp.compat import Corrections
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
"""How long a server may take to start and list its tools."""
MAX_PAGES = 20
"""The most pages of a server's list of tools that are read."""

_CLOSE_SECONDS = 0.5


class Connection:
    """A connection that runs in its own task, so that errors of its transport stay there.

    Belongs to the event loop; calls may run concurrently.
    """

    def __init__(
        self,
        chosen: ResolvedServer,
        *,
        workdir: Path,
        relay: LogRelay,
        writes: tuple[Path, ...] = (),
    ) -> None:
        self.chosen = chosen
        self._workdir = workdir
        self._writes = writes
        self._relay = relay
        self._exit = ExitDetails()
        self._corrections = Corrections()
        self._closing = asyncio.Event()
        self._ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._life: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """The server's name."""
        return self.chosen.entry.name

    async def open(self) -> list[Tool]:
        """Connect and return the server's tools.

        Raises ToolServerError, and AgentMisconfiguredError for a refused address.
        """
        self._life = asyncio.create_task(self._live(), name=f"mcp {self.name}")
        try:
            async with asyncio.timeout(START_SECONDS):
                client = await self._while_alive(self._ready)
                return await self._while_alive(_all_tools(client))
        except TimeoutError as error:
            raise self._failed(f"is not ready after {START_SECONDS:g} seconds") from error
        except (MCPError, ValueError, RuntimeError) as error:
            raise self._failed(f"can't be used: {error_text(error)}") from error

    async def call(
        self, tool: str, arguments: Mapping[str, Any], *, meta: RequestParamsMeta
    ) -> CallToolResult:
        """Call a tool within the entry's time limit.

        Raises TimeoutError; MCPError, ValueError or RuntimeError for an error or a malformed
        answer; ToolServerError if the connection was lost.
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
        """Return how a result violates the output schema of its tool; empty if it does not."""
        schema = self._corrections.output_schemas.get(tool)
        if schema is None or result.is_error:
            return ""
        if result.structured_content is None:
            return "the tool's output schema requires structured content, and there is none"
        try:
            check_schema(dict(schema), field="outputSchema")
            faults = violations(dict(schema), sanitize_json(result.structured_content))
        except SchemaInvalidError:
            return ""
        return f"it doesn't fit the tool's output schema: {'; '.join(faults)}" if faults else ""

    async def aclose(self) -> None:
        """Close within a second; a program and the processes that it started have ended then."""
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
            Client(self._corrections.wrap(transport), client_info=_CLIENT) as client,
        ):
            self._ready.set_result(client)
            await self._closing.wait()

    @asynccontextmanager
    async def _transport(self) -> AsyncIterator[AbstractAsyncContextManager[Any]]:
        match self.chosen.endpoint:
            case StdioServer() as server:
                yield stdio_streams(
                    server,
                    workdir=self._workdir,
                    writes=self._writes,
                    on_line=self._log,
                    details=self._exit,
                )
            case HttpServer() as server:
                async with guarded_client(
                    server.guard,
                    # a tool sends nothing while it works; the call has its own limit
                    timeout_seconds=self.chosen.entry.timeout_seconds + START_SECONDS,
                    max_bytes=MAX_MESSAGE_BYTES,
                    headers=dict(server.headers),
                ) as http:
                    yield streamable_http_client(server.url, http_client=http)

    async def _log(self, line: str) -> None:
        await self._relay.write(line, source=f"mcp:{self.name}")

    async def _while_alive(self, work: Awaitable[T]) -> T:
        """Wait for `work` or the end of the connection."""
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
        """Return the error of a closed connection; its task may end with the cause soon."""
        assert self._life is not None
        await asyncio.wait([self._life], timeout=_CLOSE_SECONDS)
        return self._broken() if self._life.done() else self._failed("was disconnected")

    def _broken(self) -> ExecutionError:
        assert self._life is not None
        error = None if self._life.cancelled() else self._life.exception()
        if error is None:
            return self._failed("was disconnected")
        cause = _first(error)
        if isinstance(cause, OutboundRefusedError):
            return AgentMisconfiguredError(
                f"The agent's MCP server {self.name!r} can't be reached: {cause}",
                field=f"{self.chosen.field}.url",
            )
        if self._ready.done():
            return self._failed(f"was disconnected: {error_text(cause)}")
        if isinstance(cause, httpx2.HTTPError | OSError):
            return self._failed(f"can't be reached: {error_text(cause)}")
        return self._failed(f"can't be used: {error_text(cause)}")

    def _failed(self, what: str) -> ToolServerError:
        details = str(self._exit)
        return ToolServerError(
            f"The MCP server {self.name!r} {what}{f' ({details})' if details else ''}.",
            server=self.name,
            field=self.chosen.field,
        )


_CLIENT = Implementation(name="celeriac", version=__version__)


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
    """Return the cause inside nested exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
