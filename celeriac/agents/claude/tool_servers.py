"""The MCP servers of an agent in Claude Code's configuration.

Claude Code reaches those over HTTP through the attempt's gateway. That connects only to addresses
that the outbound guard allows, and adds the headers that hold secrets.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import httpx2
from claude_agent_sdk import SystemMessage

from celeriac.agents.claude.labelling import LABEL_SERVER
from celeriac.agents.claude.permissions import server_key
from celeriac.agents.gateway.anthropic import error_body
from celeriac.agents.gateway.headers import without_hop_headers
from celeriac.agents.gateway.http_server import Handler, HttpRequest, ResponseWriter
from celeriac.agents.gateway.loopback import NO_RETRY
from celeriac.agents.mcp.servers import HttpServer, ResolvedServer, StdioServer
from celeriac.domain.errors import AgentMisconfiguredError, ToolServerError
from celeriac.kit.outbound import guarded_client

_SOUND = frozenset({"connected", "pending"})

_SILENCE_SECONDS = 3_600.0
"""A server may keep a stream open for messages of its own; calls have their own time limit."""

_MAX_BYTES = 64 * 1024 * 1024


@asynccontextmanager
async def relayed(chosen: Sequence[ResolvedServer]) -> AsyncIterator[Mapping[str, Handler]]:
    """Give the block handlers that pass requests to `/mcp/N` on to the Nth server."""
    async with AsyncExitStack() as stack:
        handlers: dict[str, Handler] = {}
        for number, each in enumerate(chosen):
            if isinstance(each.endpoint, HttpServer):
                client = guarded_client(
                    each.endpoint.guard,
                    timeout_seconds=_SILENCE_SECONDS,
                    max_bytes=_MAX_BYTES,
                    headers=dict(each.endpoint.headers),
                )
                stack.push_async_callback(client.aclose)
                handlers[f"/mcp/{number}"] = partial(_relay, client, each.endpoint.url)
        yield handlers


async def _relay(
    client: httpx2.AsyncClient, url: str, incoming: HttpRequest, answer: ResponseWriter
) -> None:
    """Answer a request with the server's response, as far as the client's guard allows."""
    headers = without_hop_headers(incoming.headers)
    for name in ("x-api-key", "authorization"):
        headers.pop(name, None)
    started = False
    try:
        async with client.stream(
            incoming.method, url, headers=headers, content=incoming.body or None
        ) as response:
            started = True
            returned = without_hop_headers(response.headers.items())
            await answer.begin(response.status_code, list(returned.items()))
            async for chunk in response.aiter_bytes():
                await answer.piece(chunk)
            await answer.end()
    except httpx2.HTTPError as error:
        if started:
            answer.cut()
            return
        message = f"The MCP server can't be reached: {error}"
        headers_of_error = [("content-type", "application/json"), NO_RETRY]
        await answer.respond(502, headers_of_error, error_body("api_error", message))


def server_configs(chosen: Sequence[ResolvedServer], gateway_url: str, key: str) -> dict[str, Any]:
    """Return Claude Code's configuration of MCP servers, by name.

    Raises AgentMisconfiguredError for names that would be ambiguous in the names of tools.
    """
    configs: dict[str, Any] = {}
    taken = {LABEL_SERVER}
    for number, each in enumerate(chosen):
        name = server_key(each.entry.name)
        if "__" in name or name in taken:
            raise AgentMisconfiguredError(
                f"Claude Code knows the MCP server {each.entry.name!r} as {name!r}, which must be "
                "unique and hold no double underscore; give it another name.",
                field=f"{each.field}.name",
            )
        taken.add(name)
        milliseconds = round(each.entry.timeout_seconds * 1000)
        if isinstance(each.endpoint, StdioServer):
            program, *arguments = each.endpoint.command
            config: dict[str, Any] = {
                "type": "stdio",
                "command": program,
                "args": arguments,
                "env": dict(each.endpoint.environment),
            }
        else:
            config = {
                "type": "http",
                "url": f"{gateway_url}/mcp/{number}",
                "headers": {"x-api-key": key},
            }
        configs[name] = {**config, "timeout": milliseconds}
    return configs


def check_servers(message: SystemMessage) -> None:
    """Accept Claude Code's first message, or raise ToolServerError naming the servers it lost."""
    if message.subtype != "init":
        return
    servers = message.data.get("mcp_servers") or []
    lost = [each["name"] for each in servers if each.get("status") not in _SOUND]
    if lost:
        raise ToolServerError(
            f"Claude Code can't reach the agent's MCP server {', '.join(lost)}. Look into the "
            "worker's log, and check the server's command or url.",
            servers=lost,
        )
