"""Calls of tools: keyed so that a repeated one can be told, recorded, bounded."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from mcp import MCPError
from mcp_types import RequestParamsMeta

from celeriac.agents.base import clip
from celeriac.agents.mcp.connection import Connection
from celeriac.agents.mcp.contents import text_of
from celeriac.agents.mcp.results import readable, told
from celeriac.agents.mcp.steps import Steps
from celeriac.domain.errors import ToolServerError
from celeriac.domain.events import EventType
from celeriac.kit.jsontypes import JsonObject, JsonValue, dumps
from celeriac.logs.events import Step
from celeriac.services.ports import RunContext

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

    def __init__(self, context: RunContext, steps: Steps) -> None:
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
            await self._record(names, Answered(readable(error.message), failed=True), began)
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
            return Answered(f"The tool did not answer within {seconds:g} seconds.", failed=True)
        except (MCPError, ValueError, RuntimeError) as error:
            return Answered(f"The tool failed: {told(error)}.", failed=True)
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
        data: dict[str, JsonValue] = {
            **names,
            "ms": ms,
            "failed": answered.failed,
            "content": answered.text[:MAX_EVENT_CHARACTERS],
        }
        if len(answered.text) > MAX_EVENT_CHARACTERS:
            data["clipped"] = len(answered.text) - MAX_EVENT_CHARACTERS
        await self._context.emit(EventType.TOOL_RESULT, data)


def _shortened(arguments: JsonObject) -> JsonValue:
    """Return arguments as the log keeps them: as they are or, where they are long, a text."""
    text = dumps(arguments)
    return arguments if len(text) <= MAX_EVENT_CHARACTERS else clip(text, MAX_EVENT_CHARACTERS)
