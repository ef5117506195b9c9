"""The server itself, and the two ways to reach it."""

import uvicorn
from mcp.server.mcpserver import MCPServer

from celeriac.client import Client
from celeriac.mcp_server.access import Access, KeyOfRequest, OneKey
from celeriac.mcp_server.approvals import approval_tools
from celeriac.mcp_server.executions import execution_tools
from celeriac.mcp_server.guard import RequireKey
from celeriac.mcp_server.reading import reading_tools
from celeriac.mcp_server.tasks import task_tools
from celeriac.mcp_server.usage import usage_tools
from celeriac.mcp_server.waiting import waiting_tools
from celeriac.version import __version__

PATH = "/mcp"
_GRACE_SECONDS = 3
"""How long calls under way may take to end once the process is told to stop."""

_INSTRUCTIONS = """Celeriac runs AI agents in the background. A task is a named, reusable piece of
work; an execution is one run of it. Find a task with list_tasks, look at its variables with
get_task, start it with execute_task, and follow it with wait_for_execution. An execution that
waits for approval goes on when a person has answered its question."""


def build_server(access: Access) -> MCPServer[None]:
    """Return a server whose tools ask the API through `access`."""
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
    """Serve the program at the other end of stdin and stdout until it closes them."""
    build_server(OneKey(client)).run("stdio")


def serve_http(base_url: str, *, host: str, port: int) -> None:
    """Serve streamable HTTP at `/mcp` until the process is told to stop.

    Each request must carry the API key that it asks with.
    """
    server = build_server(KeyOfRequest(base_url))
    uvicorn.run(
        RequireKey(server.streamable_http_app(streamable_http_path=PATH, host=host)),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
