"""The MCP servers that a crew's agents name, as the child starts and reaches them."""

from pathlib import Path

from celeriac.agents.mcp.servers import StdioServer, ToolServers, programs_of
from celeriac.domain.agent import CrewGraph, McpServer
from celeriac.domain.errors import AgentMisconfiguredError
from celeriac.kit.jsontypes import JsonObject, JsonValue


def programs_of_crew(crew: CrewGraph, servers: ToolServers) -> list[Path]:
    """Return the files that the commands of the crew's servers name."""
    named = {name for agent in crew.agents for name in agent.tools}
    chosen = servers.choose([McpServer(name=name) for name in sorted(named)])
    return programs_of(each.endpoint for each in chosen)


def tool_servers_of(crew: CrewGraph, servers: ToolServers) -> JsonObject:
    """Return the servers by name, with their environments and headers.

    Raises AgentMisconfiguredError naming the node for a server that nobody configured.
    """
    described: dict[str, JsonValue] = {}
    for agent in crew.agents:
        for name in agent.tools:
            try:
                (chosen,) = servers.choose([McpServer(name=name)])
            except AgentMisconfiguredError as error:
                node = f"agents.{agent.id}"
                raise AgentMisconfiguredError(
                    f"The crew's {node} names the tools {name!r}, but no MCP server of that name "
                    "is configured for this worker. Add it to CELERIAC_MCP_SERVERS and restart "
                    "the workers, or correct the name.",
                    field="crew",
                    node=node,
                ) from error
            endpoint = chosen.endpoint
            if isinstance(endpoint, StdioServer):
                described[name] = {
                    "command": list(endpoint.command),
                    "environment": dict(endpoint.environment),
                }
            else:
                described[name] = {"url": endpoint.url, "headers": dict(endpoint.headers)}
    return described
