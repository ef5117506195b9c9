"""Clients of `celeriac mcp` as agents are: a real process, the library's own client."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, TextContent

from tests.support.programs import scrubbed_environment

Mode = Literal["legacy", "auto"]
"""The handshake that all clients know, or the newest that both sides do."""


@asynccontextmanager
async def over_stdio(
    home: Path, *, api_url: str, key: str, mode: Mode = "auto"
) -> AsyncIterator[Client]:
    """Start a server over stdio, in a directory of its own, and connect to it."""
    environment = scrubbed_environment(home, CELERIAC_API_URL=api_url, CELERIAC_API_KEY=key)
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "celeriac", "mcp"], env=environment, cwd=home
    )
    async with Client(server, mode=mode) as client:
        yield client


@asynccontextmanager
async def over_http(
    address: str, key: str, *, workspace: str | None = None, mode: Mode = "auto"
) -> AsyncIterator[Client]:
    """Connect to a server over streamable HTTP with a key, in its workspace or in a named one."""
    headers = {"Authorization": f"Bearer {key}"}
    if workspace is not None:
        headers["Celeriac-Workspace"] = workspace
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http,
        Client(streamable_http_client(address, http_client=http), mode=mode) as client,
    ):
        yield client


async def ask(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool and return its structured answer; the test fails where it is an error."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, text_of(result)
    assert isinstance(result.structured_content, dict)
    return result.structured_content


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    """Call a tool that must fail, and return what it says."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, f"{tool} answered {result.structured_content}"
    return text_of(result)


def text_of(result: CallToolResult) -> str:
    """Return the text of an answer."""
    return "\n".join(each.text for each in result.content if isinstance(each, TextContent))
