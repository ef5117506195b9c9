"""The tools of a run, as the model library takes them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pydantic_ai import ApprovalRequired, ToolDefinition, ToolFailed
from pydantic_ai import RunContext as AiContext
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from celeriac.agents.base import violations_of
from celeriac.agents.child.log_relay import LogRelay
from celeriac.agents.mcp.calls import Calls
from celeriac.agents.mcp.connection import Connection
from celeriac.agents.mcp.offers import Offer, offers_of
from celeriac.agents.mcp.results import clean, repaired
from celeriac.agents.mcp.servers import Chosen
from celeriac.agents.mcp.steps import Steps
from celeriac.kit.jsontypes import BEYOND_64_BITS
from celeriac.kit.threads import CHECKS
from celeriac.services.ports import RunContext

_ANY_OBJECT = SchemaValidator(
    core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema())
)


class ServerTools(AbstractToolset[None]):
    """The tools of one connected server."""

    def __init__(
        self, connection: Connection, offers: Sequence[Offer], calls: Calls, *, retries: int
    ) -> None:
        """Offer `offers`; a model may send arguments that can't be read `retries` times."""
        self._connection = connection
        self._calls = calls
        self._offers = {offer.name: offer for offer in offers}
        self._tools = {offer.name: self._tool(offer, retries) for offer in offers}

    @property
    def id(self) -> str:
        """The server's name."""
        return self._connection.name

    async def get_tools(self, ctx: AiContext[None]) -> dict[str, ToolsetTool[None]]:  # noqa: ARG002
        """Return the tools by the names that the model uses."""
        return self._tools

    async def call_tool(
        self,
        name: str,
        tool_args: dict[str, Any],
        ctx: AiContext[None],
        tool: ToolsetTool[None],  # noqa: ARG002 - the signature of the library
    ) -> str:
        """Call a tool once its arguments are right and, where it needs that, it is approved.

        Raises ToolFailed with what the model is to know, ApprovalRequired and ToolServerError.
        """
        offer = self._offers[name]
        arguments = clean(tool_args)
        faults = await violations_of(offer.schema, arguments)
        if arguments != repaired(tool_args):
            faults.append(f"{BEYOND_64_BITS} or no number at all must be given as a text")
        if faults:
            raise ToolFailed(f"The arguments don't fit the tool: {'; '.join(faults)}.")
        if offer.needs_approval and not ctx.tool_call_approved:
            raise ApprovalRequired(metadata={"server": self.id, "tool": offer.tool})
        answered = await self._calls.make(
            self._connection, offer.tool, arguments, call_id=ctx.tool_call_id or ""
        )
        if answered.failed:
            raise ToolFailed(answered.text)
        return answered.text

    def _tool(self, offer: Offer, retries: int) -> ToolsetTool[None]:
        return ToolsetTool(
            toolset=self,
            tool_def=ToolDefinition(
                name=offer.name,
                description=offer.description,
                parameters_json_schema=dict(offer.schema),
            ),
            max_retries=retries,
            args_validator=_ANY_OBJECT,
        )


@asynccontextmanager
async def connected(
    servers: Sequence[Chosen], context: RunContext, steps: Steps, *, retries: int
) -> AsyncIterator[list[ServerTools]]:
    """Connect to all `servers` at once, and give the block their tools.

    Calls are recorded in `context`, named by `steps`.

    At its end, within a second, nothing of them is left. Raises ToolServerError and
    AgentMisconfiguredError.
    """
    relay = LogRelay(context)
    calls = Calls(context, steps)
    connections = [Connection(each, workdir=context.workdir, relay=relay) for each in servers]
    try:
        yield await _opened(connections, calls, relay, retries)
    finally:
        await asyncio.gather(*(connection.aclose() for connection in connections))


async def _opened(
    connections: Sequence[Connection], calls: Calls, relay: LogRelay, retries: int
) -> list[ServerTools]:
    toolsets = []
    opening = [asyncio.ensure_future(connection.open()) for connection in connections]
    try:
        for connection, tools in zip(connections, opening, strict=True):
            # a server's schemas are checked in a thread: they may be many and large
            offers, faults = await CHECKS.run(offers_of, connection.chosen, await tools)
            for tool, fault in faults.items():
                await relay.write(
                    f"The tool {tool!r} of the MCP server {connection.name!r} is left out: {fault}",
                    level="warning",
                    source="celeriac",
                )
            toolsets.append(ServerTools(connection, offers, calls, retries=retries))
    finally:
        for each in opening:
            each.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
    return toolsets
