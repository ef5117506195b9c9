"""Registers the tools of the MCP server and describes their parameters."""

from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

from mcp.server.mcpserver.tools import Tool
from mcp_types import ToolAnnotations
from pydantic import Field

READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
"""It changes nothing."""
ADDS = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True
)
"""It begins work; what an agent does may reach anything."""
ENDS = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
"""It ends or settles something for good; done twice, nothing more happens."""


def make_tool(function: Callable[..., Any], title: str, annotations: ToolAnnotations) -> Tool:
    """Return `function` as a tool, named and described as it is itself.

    Unlike the library's own, it refuses arguments that it doesn't know: a model that misspells
    `variables` is told so, and doesn't start work without them.
    """
    tool = Tool.from_function(
        function, title=title, annotations=annotations, structured_output=True
    )
    arguments = tool.fn_metadata.arg_model
    arguments.model_config["extra"] = "forbid"
    arguments.model_rebuild(force=True)
    tool.parameters = arguments.model_json_schema(by_alias=True)
    return tool


TaskName = Annotated[str, Field(min_length=1, max_length=200, description="The task's name or id.")]
ExecutionId = Annotated[UUID, Field(description="The execution's id.")]
Limit = Annotated[int, Field(ge=1, le=200, description="How many to return at most.")]
Offset = Annotated[int, Field(ge=0, description="Characters to pass over.")]
Characters = Annotated[
    int, Field(ge=100, le=200_000, description="How many characters to return at most.")
]
