"""The MCP server, over stdio and HTTP."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer

from celeriac.client import Client
from celeriac.kit.json_types import dumps
from celeriac.mcp_server.access import Access, bearer_key, key_of_request, one_key
from celeriac.mcp_server.executions import execution_tools, reading_tools, waiting_tools
from celeriac.mcp_server.tasks import approval_tools, task_tools, usage_tools
from celeriac.version import __version__

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Scope]]
_Send = Callable[[_Scope], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]

_REFUSAL = dumps(
    {
        "error": "unauthenticated",
        "error_description": "Send an API key of Celeriac: `Authorization: Bearer cel_…`.",
    }
).encode()


def require_key(app: _App) -> _App:
    """Return an ASGI application that answers requests without a key with 401."""

    async def handle(scope: _Scope, receive: _Receive, send: _Send) -> None:
        sent = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope.get("headers", ())
        }
        if scope["type"] != "http" or bearer_key(sent) is not None:
            await app(scope, receive, send)
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"www-authenticate", b'Bearer realm="celeriac"'),
        ]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": _REFUSAL})

    return handle


PATH = "/mcp"
_GRACE_SECONDS = 3
"""How long running calls may take to end after SIGTERM."""

_INSTRUCTIONS = """Celeriac runs AI agents in the background. A task is a named, reusable piece of
work; an execution is one run of it. Find a task with list_tasks, look at its variables with
get_task, start it with execute_task, and follow it with wait_for_execution. An execution that
waits for approval continues when a person has answered its question."""


def build_server(access: Access) -> MCPServer[None]:
    """Return a server whose tools use the API clients of `access`."""
    return MCPServer(
        "celeriac",
        title="Celeriac",
        description="Background execution for AI agents.",
        instructions=_INSTRUCTIONS,
        version=__version__,
        tools=[
            *task_tools(access),
            *execution_tools(access),
            *waiting_tools(access),
            *reading_tools(access),
            *approval_tools(access),
            *usage_tools(access),
        ],
        log_level="WARNING",
    )


def serve_stdio(client: Client) -> None:
    """Serve over stdin and stdout until they are closed."""
    build_server(one_key(client)).run("stdio")


def serve_http(base_url: str, *, host: str, port: int) -> None:
    """Serve streamable HTTP at `/mcp` until SIGTERM; each request must have an API key."""
    server = build_server(key_of_request(base_url))
    uvicorn.run(
        require_key(server.streamable_http_app(streamable_http_path=PATH, host=host)),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
