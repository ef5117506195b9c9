"""Creates the tools of the MCP server; types of their parameters and results."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Annotated, Any, Self, TypeVar
from uuid import UUID

from mcp.server.mcpserver.tools import Tool
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

T = TypeVar("T")

READS = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
"""The tool changes nothing."""
ADDS = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True
)
"""The tool starts work; the effects of an agent are open."""
ENDS = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
"""The tool ends something for good; repeating the call changes nothing."""

TaskName = Annotated[str, Field(min_length=1, max_length=200, description="The task's name or id.")]
TaskFilter = Annotated[
    str | None, Field(max_length=200, description="Only those of this task: name or id.")
]
ExecutionId = Annotated[UUID, Field(description="The execution's id.")]
Limit = Annotated[int, Field(ge=1, le=200, description="The most entries to return.")]
Offset = Annotated[int, Field(ge=0, description="The number of characters to skip.")]
Characters = Annotated[int, Field(ge=100, le=200_000, description="The most characters to return.")]


def make_tool(function: Callable[..., Any], title: str, annotations: ToolAnnotations) -> Tool:
    """Return a tool with the name, the docstring and the parameters of `function`.

    Unlike the library, it refuses unknown arguments: a model that misspells `variables` gets an
    error, and doesn't start work without them.
    """
    tool = Tool.from_function(
        function, title=title, annotations=annotations, structured_output=True
    )
    arguments = tool.fn_metadata.arg_model
    arguments.model_config["extra"] = "forbid"
    arguments.model_rebuild(force=True)
    tool.parameters = arguments.model_json_schema(by_alias=True)
    return tool


class View(BaseModel):
    """The part of a document of the API that a tool returns."""

    @classmethod
    def of(cls, document: object, **computed: Any) -> Self:
        """Return the fields of `document`, and those `computed` from it."""
        names = cls.model_fields.keys() - computed.keys()
        return cls(**{name: getattr(document, name) for name in names}, **computed)


def first(entries: Iterable[T], limit: int) -> tuple[list[T], bool]:
    """Return at most `limit` entries, and whether there are more."""
    found = list(islice(entries, limit + 1))
    return found[:limit], len(found) > limit
