"""The MCP tools of a run: offered to the model, approved, called and recorded."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any

import structlog
from mcp import MCPError
from mcp_types import RequestParamsMeta, Tool
from pydantic_ai import ApprovalRequired, ToolDefinition, ToolFailed
from pydantic_ai import RunContext as AiContext
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from celeriac import traces
from celeriac.agents.child.run import LogRelay
from celeriac.agents.mcp.call_keys import CallKeys
from celeriac.agents.mcp.connection import Connection
from celeriac.agents.mcp.results import error_text, repaired, sanitize_json, sanitize_text, text_of
from celeriac.agents.mcp.servers import ResolvedServer
from celeriac.agents.output import violations_of
from celeriac.domain.errors import AgentMisconfiguredError, SchemaInvalidError, ToolServerError
from celeriac.domain.executions.events import EventType
from celeriac.domain.schemas import check_schema
from celeriac.kit.json_types import BEYOND_64_BITS, JsonObject, JsonValue, dumps
from celeriac.kit.text import clip, clipped_field
from celeriac.kit.threads import CHECKS
from celeriac.kit.words import counted
from celeriac.logs import Step
from celeriac.services.ports import RunContext

MAX_TOOLS = 128
"""The most tools of one server for an agent; models take no more."""

_MAX_NAME = 64
_MAX_DESCRIPTION = 4_000
_SHOWN_NAMES = 20
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")
_WILDCARDS = frozenset("*?")


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool that an agent may call."""

    name: str
    """Its name for the model."""
    tool: str
    """Its name on the server."""
    description: str
    schema: JsonObject
    """A valid JSON schema of its arguments."""
    needs_approval: bool


def model_name(server: str, tool: str) -> str:
    """Return the name of a tool for models: `server__tool`.

    It depends on the two names only, so that a resumed session finds the tools of its calls. Models
    take letters, digits, `_` and `-`, at most 64; other names are changed, and a hash of the
    original is appended.
    """
    full = f"{server}__{tool}"
    fit = _UNFIT.sub("_", full)
    if fit == full and len(fit) <= _MAX_NAME:
        return fit
    digest = sha256(full.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{fit[: _MAX_NAME - 9]}_{digest}"


def tool_specs(
    chosen: ResolvedServer, tools: Iterable[Tool]
) -> tuple[list[ToolSpec], Mapping[str, str]]:
    """Return the tools that the entry allows, and by name the faults of those that can't be used.

    Raises AgentMisconfiguredError if the entry names a tool that doesn't exist or can't be used
    (patterns may match none), or allows too many.
    """
    entry = chosen.entry
    found: dict[str, Tool] = {}
    for tool in tools:
        found.setdefault(tool.name, tool)
    faults: dict[str, str] = {}
    specs: list[ToolSpec] = []
    for name, tool in found.items():
        if entry.allowed_tools is not None and not _matches(name, entry.allowed_tools):
            continue
        try:
            schema = _schema(tool)
        except (SchemaInvalidError, TypeError, ValueError) as error:
            faults[name] = str(error)
            continue
        specs.append(
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
    if len(specs) > MAX_TOOLS:
        raise AgentMisconfiguredError(
            f"The MCP server {entry.name!r} offers {len(specs)} tools; an agent can have "
            f"{MAX_TOOLS}. Name those that it needs.",
            field=f"{chosen.field}.allowed_tools",
        )
    return specs, faults


def _check_named(
    chosen: ResolvedServer,
    field: str,
    patterns: Sequence[str],
    found: Mapping[str, Tool],
    faults: Mapping[str, str],
) -> None:
    """Refuse unknown names: a typo must not remove a tool, or the approval of its calls."""
    for pattern in patterns:
        if _WILDCARDS & set(pattern):
            continue
        if pattern not in found:
            names = sanitize_text(", ".join(sorted(found)[:_SHOWN_NAMES])) or "none"
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
"""The longest arguments and results in the log; longer ones are cut."""

IDEMPOTENCY_KEY = "celeriac/idempotency-key"
"""The field of a request's `_meta` that holds the idempotency key of a call."""

_ANY_OBJECT = SchemaValidator(
    core_schema.dict_schema(core_schema.str_schema(), core_schema.any_schema())
)


@dataclass(frozen=True, slots=True)
class _Answer:
    """A tool's answer as the model gets it."""

    text: str
    failed: bool


class ServerTools(AbstractToolset[None]):
    """The tools of one connected server; calls are recorded in the execution's log.

    A model may send arguments that are not a JSON object `retries` times.
    """

    def __init__(
        self,
        connection: Connection,
        specs: Sequence[ToolSpec],
        context: RunContext,
        keys: CallKeys,
        *,
        retries: int,
    ) -> None:
        self._connection = connection
        self._context = context
        self._keys = keys
        self._specs = {spec.name: spec for spec in specs}
        self._tools = {spec.name: self._tool(spec, retries) for spec in specs}

    @property
    def id(self) -> str:
        """The server's name."""
        return self._connection.name

    async def get_tools(self, ctx: AiContext[None]) -> dict[str, ToolsetTool[None]]:  # noqa: ARG002
        """Return the tools by their names for the model."""
        return self._tools

    async def call_tool(
        self,
        name: str,
        tool_args: dict[str, Any],
        ctx: AiContext[None],
        tool: ToolsetTool[None],  # noqa: ARG002 - the signature of the library
    ) -> str:
        """Check the arguments and the approval, call the tool and return its answer.

        Raises ToolFailed with a message for the model, ApprovalRequired, and ToolServerError if the
        connection is lost.
        """
        spec = self._specs[name]
        arguments = sanitize_json(tool_args)
        faults = await violations_of(spec.schema, arguments)
        if arguments != repaired(tool_args):
            faults.append(f"{BEYOND_64_BITS}, NaN or infinity must be given as a text")
        if faults:
            raise ToolFailed(f"The arguments don't fit the tool: {'; '.join(faults)}.")
        if spec.needs_approval and not ctx.tool_call_approved:
            raise ApprovalRequired(metadata={"server": self.id, "tool": spec.tool})
        answer = await self._call(spec.tool, arguments, call_id=ctx.tool_call_id or "")
        if answer.failed:
            raise ToolFailed(answer.text)
        return answer.text

    def _tool(self, spec: ToolSpec, retries: int) -> ToolsetTool[None]:
        return ToolsetTool(
            toolset=self,
            tool_def=ToolDefinition(
                name=spec.name,
                description=spec.description,
                parameters_json_schema=dict(spec.schema),
            ),
            max_retries=retries,
            args_validator=_ANY_OBJECT,
        )

    async def _call(self, tool: str, arguments: JsonObject, *, call_id: str) -> _Answer:
        """Call a tool and record the call; errors of the tool are answers."""
        key = self._keys.next(f"{self.id}.{tool}", arguments)
        names = {"id": call_id, "server": self.id, "tool": tool}
        text = dumps(arguments)
        fits = len(text) <= MAX_EVENT_CHARACTERS
        shown: JsonValue = arguments if fits else clip(text, MAX_EVENT_CHARACTERS)
        await self._context.emit(EventType.TOOL_CALL, {**names, "arguments": shown})
        began = time.monotonic()
        try:
            answer = await self._answer(tool, arguments, key)
        except ToolServerError as error:
            await self._record(names, _Answer(sanitize_text(error.message), failed=True), began)
            raise
        await self._record(names, answer, began)
        return answer

    async def _answer(self, tool: str, arguments: JsonObject, key: str) -> _Answer:
        meta: RequestParamsMeta = {
            IDEMPOTENCY_KEY: self._context.idempotency_key(key)  # type: ignore[misc]
        }
        if (parent := traces.traceparent()) is not None:
            meta["traceparent"] = parent  # type: ignore[typeddict-unknown-key]
        try:
            result = await self._connection.call(tool, arguments, meta=meta)
        except TimeoutError:
            seconds = self._connection.chosen.entry.timeout_seconds
            return _Answer(
                f"The tool did not answer within {counted(seconds, 'second')}.", failed=True
            )
        except (MCPError, ValueError, RuntimeError) as error:
            return _Answer(f"The tool failed: {error_text(error)}.", failed=True)
        note = self._connection.mismatch(tool, result)
        return _Answer(text_of(result, note=note), failed=result.is_error)

    async def _record(self, names: JsonObject, answer: _Answer, began: float) -> None:
        ms = round((time.monotonic() - began) * 1000)
        logger.info(
            Step.TOOL_EXECUTED,
            server=names["server"],
            tool=names["tool"],
            ms=ms,
            failed=answer.failed,
        )
        content = clipped_field("content", answer.text, MAX_EVENT_CHARACTERS)
        await self._context.emit(
            EventType.TOOL_RESULT, {**names, "ms": ms, "failed": answer.failed, **content}
        )


@asynccontextmanager
async def connected(
    servers: Sequence[ResolvedServer],
    context: RunContext,
    keys: CallKeys,
    *,
    retries: int,
    writes: tuple[Path, ...] = (),
) -> AsyncIterator[list[ServerTools]]:
    """Connect to all `servers` concurrently, and yield their tools.

    When the block ends, all connections and programs are closed within a second. Raises
    ToolServerError and AgentMisconfiguredError.
    """
    relay = LogRelay(context)
    connections = [
        Connection(each, workdir=context.workdir, relay=relay, writes=writes) for each in servers
    ]
    opening = [asyncio.ensure_future(connection.open()) for connection in connections]
    try:
        toolsets = []
        for connection, tools in zip(connections, opening, strict=True):
            # a server's schemas are checked in a thread: they may be many and large
            specs, faults = await CHECKS.run(tool_specs, connection.chosen, await tools)
            for tool, fault in faults.items():
                await relay.write(
                    f"The tool {tool!r} of the MCP server {connection.name!r} is left out: {fault}",
                    level="warning",
                    source="celeriac",
                )
            toolsets.append(ServerTools(connection, specs, context, keys, retries=retries))
        yield toolsets
    finally:
        for each in opening:
            each.cancel()
        try:
            await asyncio.gather(*opening, return_exceptions=True)
        finally:
            await asyncio.gather(*(connection.aclose() for connection in connections))
