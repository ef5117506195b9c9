"""The tool with which Claude Code labels its execution: an MCP server in the worker's process."""

from typing import Any

from claude_agent_sdk import McpSdkServerConfig, create_sdk_mcp_server, tool

from celeriac.agents.labels import DESCRIPTION, LABEL_TOOL, SCHEMA, change_labels
from celeriac.agents.mcp.results import sanitize_json
from celeriac.domain.errors import CeleriacError
from celeriac.kit.json_types import dumps
from celeriac.services.ports import RunContext

LABEL_SERVER = "celeriac-labels"
"""The name of the server, which no other MCP server of the agent may have."""

OWN_TOOL = f"mcp__{LABEL_SERVER}__{LABEL_TOOL}"
"""The name of the tool for Claude Code."""


def label_server(context: RunContext) -> McpSdkServerConfig:
    """Return the server, which Claude Code asks over its own pipes.

    Labels that break the rules are refused, and the model reads why.
    """

    @tool(LABEL_TOOL, DESCRIPTION, dict(SCHEMA))
    async def label_execution(arguments: dict[str, Any]) -> dict[str, Any]:
        labels = arguments.get("labels")
        if not isinstance(labels, dict):
            return _answer("labels must be an object of texts by their keys.", failed=True)
        try:
            return _answer(dumps(await change_labels(context, sanitize_json(labels))))
        except CeleriacError as error:  # one that has lost its lease is stopped by its heartbeat
            return _answer(error.message, failed=True)

    return create_sdk_mcp_server(LABEL_SERVER, tools=[label_execution])


def _answer(text: str, *, failed: bool = False) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}], "is_error": failed}
