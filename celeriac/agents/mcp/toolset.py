"""The tools of a run: offered to the model, called over MCP, with approvals."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

import structlog
from mcp import MCPError
from mcp_types import RequestParamsMeta, Tool
from pydantic_ai import ApprovalRequired, ToolDefinition, ToolFailed
from pydantic_ai import RunContext as AiContext
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from celeriac.agents.base import violations_of
from celeriac.agents.child.run import LogRelay
from celeriac.agents.mcp.call_keys import CallKeys
from celeriac.agents.mcp.connection import Connection
from celeriac.agents.mcp.results import error_text, repaired, sanitize_json, sanitize_text, text_of
from celeriac.agents.mcp.servers import ResolvedServer
from celeriac.domain.errors import AgentMisconfiguredError, SchemaInvalidError, ToolServerError
from celeriac.domain.executions.events import EventType
from celeriac.domain.schemas import check_schema
from celeriac.kit.json_types import BEYOND_64_BITS, JsonObject, JsonValue, dumps
from celeriac.kit.text import clip, clipped_field
from celeriac.kit.threads import CHECKS
from celeriac.kit.words import counted
from celeriac.logs.pipeline import Step
from celeriac.services.ports import RunContext

MAX_TOOLS = 128
"""Tools of one server that an agent may have; models take no more."""

_MAX_NAME = 64
_MAX_DESCRIPTION = 4_000
_SHOWN_NAMES = 20
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")
_WILDCARDS = frozenset("*?")


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool that an agent may call."""

    name: str
    """As the model knows it."""
    tool: str
    """As its server knows it."""
    description: str
    schema: JsonObject
    """JSON schema of its arguments; a valid one."""
    needs_approval: bool


def model_name(server: str, tool: str) -> str:
    """Return the name under which a model knows a tool: `server__tool`.

    It follows from the two names alone, so that an answer to a call of yesterday finds its tool.
    Names that a model can't take (letters, digits, `_`, `-`, at most 64) are changed and get a
    mark of what they were.
    """
    full = f"{server}__{tool}"
    fit = _UNFIT.sub("_", full)
    if fit == full and len(fit) <= _MAX_NAME:
        return fit
    mark = sha256(full.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{fit[: _MAX_NAME - 9]}_{mark}"


def tool_specs(
    chosen: ResolvedServer, tools: Iterable[Tool]
) -> tuple[list[ToolSpec], Mapping[str, str]]:
    """Return the tools that the entry allows, and why others that it allows can't be used.

    Raises AgentMisconfiguredError where the entry names a tool that isn't there or can't be used
    (patterns may match none), or allows too many.
    """
    entry = chosen.entry
    found: dict[str, Tool] = {}
    for tool in tools:
        found.setdefault(tool.name, tool)
    faults: dict[str, str] = {}
    offers: list[ToolSpec] = []
    for name, tool in found.items():
        if entry.allowed_tools is not None and not _matches(name, entry.allowed_tools):
            continue
        try:
            schema = _schema(tool)
        except (SchemaInvalidError, TypeError, ValueError) as error:
            faults[name] = str(error)
            continue
        offers.append(
            ToolSpec(
                name=model_name(entry.name, name),
                tool=name,
                description=clip(sanitize_text(tool.description or ""), _MAX_DESCRIPTION),
                schema=schema,
                needs_approval=_matches(name, entry.approve_tools),
            )
        )
    _check_named(chosen, "allowed_tools", entry.allowed_tools or (), found, faults)
    _check_named(chosen, "approve_tools", entry.approve_tools, found, faults)
    if len(offers) > MAX_TOOLS:
        raise AgentMisconfiguredError(
            f"The MCP server {entry.name!r} offers {len(offers)} tools; an agent can have "
            f"{MAX_TOOLS}. Name those that it needs.",
            field=f"{chosen.field}.allowed_tools",
        )
    return offers, faults


def _check_named(
    chosen: ResolvedServer,
    field: str,
    patterns: Sequence[str],
    found: Mapping[str, Tool],
    faults: Mapping[str, str],
) -> None:
    """Refuse names of tools that aren't there: a typo must not take a tool, or its approval."""
    for pattern in patterns:
        if _WILDCARDS & set(pattern):
            continue
        if pattern not in found:
            names = sanitize_text(", ".join(sorted(found)[:_SHOWN_NAMES])) or "none at all"
            raise AgentMisconfiguredError(
                f"The MCP server {chosen.entry.name!r} has no tool {pattern!r}. It has: {names}.",
                field=f"{chosen.field}.{field}",
            )
        if pattern in faults:
            raise AgentMisconfiguredError(
                f"The tool {pattern!r} of the MCP server {chosen.entry.name!r} can't be used: "
                f"{faults[pattern]}",
                field=f"{chosen.field}.{field}",
            )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _schema(tool: Tool) -> dict[str, Any]:
    schema = {"type": "object", **sanitize_json(tool.input_schema)}
    if schema["type"] != "object":
        raise ValueError("its arguments must be an object")
    check_schema(schema, field="inputSchema")
    return schema


logger = structlog.get_logger(__name__)

MAX_EVENT_CHARACTERS = 20_000
"""How much of a call's arguments, and of its result, is kept in the log."""

IDEMPOTENCY_KEY = "celeriac/idempotency-key"
"""Where a tool finds the key of a call, in the `_meta` of its request."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a tool answered, as a model gets to see it."""

    text: str
    failed: bool


class Calls:
    """Makes the calls of one run."""

    def __init__(self, context: RunContext, steps: CallKeys) -> None:
        """Record them in `context`, named by `steps`."""
        self._context = context
        self._steps = steps

    async def make(
        self, connection: Connection, tool: str, arguments: JsonObject, *, call_id: str
    ) -> Answered:
        """Call a tool; whatever goes wrong with it is an answer, too.

        Raises ToolServerError where the server is gone.
        """
        step = self._steps.next(f"{connection.name}.{tool}", arguments)
        names = {"id": call_id, "server": connection.name, "tool": tool}
        await self._context.emit(EventType.TOOL_CALL, {**names, "arguments": _shortened(arguments)})
        began = time.monotonic()
        try:
            answered = await self._ask(connection, tool, arguments, step)
        except ToolServerError as error:
            await self._record(names, Answered(sanitize_text(error.message), failed=True), began)
            raise
        await self._record(names, answered, began)
        return answered

    async def _ask(
        self, connection: Connection, tool: str, arguments: JsonObject, step: str
    ) -> Answered:
        meta: RequestParamsMeta = {
            IDEMPOTENCY_KEY: self._context.idempotency_key(step)  # type: ignore[misc]
        }
        try:
            result = await connection.call(tool, arguments, meta=meta)
        except TimeoutError:
            seconds = connection.chosen.entry.timeout_seconds
            return Answered(
                f"The tool did not answer within {counted(seconds, 'second')}.", failed=True
            )
        except (MCPError, ValueError, RuntimeError) as error:
            return Answered(f"The tool failed: {error_text(error)}.", failed=True)
        note = connection.mismatch(tool, result)
        return Answered(text_of(result, note=note), failed=result.is_error)

    async def _record(self, names: Mapping[str, str], answered: Answered, began: float) -> None:
        ms = round((time.monotonic() - began) * 1000)
        logger.info(
            Step.TOOL_EXECUTED,
            server=names["server"],
            tool=names["tool"],
            ms=ms,
            failed=answered.failed,
        )
        await self._context.emit(
            EventType.TOOL_RESULT,
            {
                **names,
                "ms": ms,
                "failed": answered.failed,
                **clipped_field("content", answered.text, MAX_EVENT_CHARACTERS),
            },
        )


def _shortened(arguments: JsonObject) -> JsonValue:
    """Return arguments as the log keeps them: as they are or, where they are long, a text."""
    text = dumps(arguments)
    return arguments if len(text) <= MAX_EVENT_CHARACTERS else clip(text, MAX_EVENT_CHARACTERS)


_ANY_OBJECT = SchemaValidator(
    core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema())
)


class ServerTools(AbstractToolset[None]):
    """The tools of one connected server."""

    def __init__(
        self, connection: Connection, offers: Sequence[ToolSpec], calls: Calls, *, retries: int
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
        arguments = sanitize_json(tool_args)
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

    def _tool(self, offer: ToolSpec, retries: int) -> ToolsetTool[None]:
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
    servers: Sequence[ResolvedServer], context: RunContext, steps: CallKeys, *, retries: int
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
            offers, faults = await CHECKS.run(tool_specs, connection.chosen, await tools)
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
