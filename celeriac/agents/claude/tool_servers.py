"""MCP servers as Claude Code is told of them.

Those over HTTP it reaches through the gateway, which goes only where the guard lets it, and which
adds the headers that hold secrets.
"""

from collections.abc import Sequence
from typing import Any

from claude_agent_sdk import SystemMessage

from celeriac.agents.claude.permissions import server_key
from celeriac.agents.mcp.servers import ResolvedServer, StdioServer
from celeriac.domain.errors import AgentMisconfiguredError, ToolServerError

_SOUND = frozenset({"connected", "pending"})


def server_configs(chosen: Sequence[ResolvedServer], gateway_url: str, key: str) -> dict[str, Any]:
    """Return Claude Code's configuration of MCP servers, by name.

    Raises AgentMisconfiguredError for names that could not be told apart in those of tools.
    """
    configs: dict[str, Any] = {}
    for number, each in enumerate(chosen):
        name = server_key(each.entry.name)
        if "__" in name or name in configs:
            raise AgentMisconfiguredError(
                f"Claude Code knows the MCP server {each.entry.name!r} as {name!r}, which must be "
                "unique and hold no double underscore; give it another name.",
                field=f"{each.field}.name",
            )
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
