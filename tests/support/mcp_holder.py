"""A worker's part with an MCP server: holds a call open until it is killed.

python -m tests.support.mcp_holder DIRECTORY
"""

import asyncio
import sys
from pathlib import Path

from celeriac.agents.child.run import LogRelay
from celeriac.agents.mcp.connection import Connection
from celeriac.agents.mcp.servers import StdioServer, ToolServers
from celeriac.domain.agents import McpServer
from celeriac.kit.outbound import OutboundGuard
from tests.support.programs import REPOSITORY
from tests.support.run_context import RecordingContext


async def hold(workdir: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)}
    command = (sys.executable, "-m", "tests.support.mcp_tools")
    servers = ToolServers({"tools": StdioServer(command, environment)}, guard=OutboundGuard())
    (chosen,) = servers.choose([McpServer(name="tools", timeout_seconds=600)])
    connection = Connection(chosen, workdir=workdir, relay=LogRelay(RecordingContext(workdir)))
    await connection.open()
    await connection.call("wait", {"seconds": 600}, meta={})


if __name__ == "__main__":
    asyncio.run(hold(Path(sys.argv[1])))
