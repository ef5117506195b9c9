"""The tool with which a model of an `llm` agent labels its execution."""

from typing import Any

from pydantic_ai import ToolFailed
from pydantic_ai.tools import Tool
from pydantic_ai.toolsets import FunctionToolset

from celeriac.agents.labels import DESCRIPTION, LABEL_TOOL, SCHEMA, change_labels
from celeriac.agents.mcp.results import sanitize_json
from celeriac.domain.errors import InvalidInputError
from celeriac.kit.json_types import dumps
from celeriac.services.ports import RunContext


def label_tools(context: RunContext, *, retries: int) -> FunctionToolset[None]:
    """Return the tool `label_execution`; a model may call it with wrong arguments `retries` times.

    Labels that break the rules are refused, and the model reads why.
    """

    async def label_execution(labels: dict[str, Any]) -> str:
        try:
            return dumps(await change_labels(context, sanitize_json(labels)))
        except InvalidInputError as error:
            raise ToolFailed(error.message) from error

    tool: Tool[None] = Tool.from_schema(
        label_execution, LABEL_TOOL, DESCRIPTION, dict(SCHEMA), sequential=True
    )
    return FunctionToolset([tool], id="labels", max_retries=retries)
