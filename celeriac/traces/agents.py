"""Spans of attempts, agents, model calls and tool calls, named as OpenTelemetry's GenAI group says.

The names come from `opentelemetry-util-genai`; contents are never given to it.
"""

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from celeriac import traces
from celeriac.kit.json_types import JsonObject
from celeriac.traces import Value, begin

if TYPE_CHECKING:
    from opentelemetry.util.genai.invocation import GenAIInvocation

T = TypeVar("T")


class AttemptTrace:
    """The spans of one attempt: its root, its agent, and its tool calls; nothing while off."""

    def __init__(self, *, trace_id: str | None, cause: str | None, **attributes: Value) -> None:
        """Begin the root of `trace_id`, linked to `cause`, the `traceparent` of the submit."""
        self._traces = traces.current()
        self._root = begin("attempt", "consumer", trace_id=trace_id, link=cause)
        self._root.note(**attributes)
        self._agent: GenAIInvocation | None = None
        self._tools: dict[str, GenAIInvocation] = {}

    def agent_begins(self, task: str, agent: str, session_id: UUID | None) -> None:
        """Name the attempt, and begin the span of its agent."""
        if self._traces is None:
            return
        self._root.rename(f"attempt {task}")
        conversation = None if session_id is None else str(session_id)
        with self._root.active():
            self._agent = self._traces.genai.invoke_local_agent(
                agent_name=agent, conversation_id=conversation
            )
            self._agent.suspend()

    async def run(self, work: Awaitable[T]) -> T:
        """Await `work` as a part of the agent's span."""
        if self._traces is None or self._agent is None:
            return await work
        with self._traces.within(self._agent.context):
            return await work

    def tool_event(self, data: JsonObject, *, returned: bool) -> None:
        """Begin or end the span of a tool call, from the data of its event."""
        if self._traces is None:
            return
        call_id = str(data.get("id") or "")
        if returned:
            self.tool_returned(call_id, failed=bool(data.get("failed")))
        else:
            server = data.get("server")
            self.tool_called(call_id, str(data.get("tool")), str(server) if server else None)

    def tool_called(self, call_id: str, tool: str, server: str | None) -> None:
        """Begin the span of a tool call."""
        if self._traces is None or self._agent is None or len(self._tools) >= _MOST_TOOLS:
            return
        call = self._traces.genai.tool(
            tool, tool_type="extension" if server else "function", context=self._agent.context
        )
        call.suspend()
        call.tool_call_id = call_id or None
        if server:
            call.attributes["celeriac.mcp_server"] = server
        self._tools[call_id] = call

    def tool_returned(self, call_id: str, *, failed: bool) -> None:
        """End the span of a tool call."""
        call = self._tools.pop(call_id, None)
        if call is not None:
            _finish(call, "tool_error" if failed else None)

    def end(self, status: str, error: str | None = None) -> None:
        """End all spans; `error` is the code of the failure."""
        if self._traces is None:
            return
        for call in self._tools.values():
            _finish(call, "unfinished")
        self._tools.clear()
        if self._agent is not None:
            _finish(self._agent, error)
        self._root.note(status=status)
        if error is not None:
            self._root.fails(error)
        self._root.end()


NO_TRACE = AttemptTrace(trace_id=None, cause=None)
"""What does nothing: made while this is imported, before any process traces."""

_MOST_TOOLS = 1_000
"""Tool calls under way of one attempt that have spans; agents may report calls without results."""


class ModelCallTrace:
    """The span of one model call; nothing while traces are off."""

    def __init__(self, provider: str, model: str, place: Any) -> None:
        """Begin it at `place`, which `celeriac.traces.place` has returned."""
        found = traces.current()
        self._call: Any = None
        if found is not None:
            self._call = found.genai.inference(provider, request_model=model, context=place)
            self._call.suspend()

    def end(
        self,
        *,
        model: str | None,
        tokens: tuple[int, int, int],
        finish_reason: str | None,
        error: str | None,
    ) -> None:
        """End it; `tokens` are those of the input, of these from a cache, and of the output."""
        if self._call is None:
            return
        self._call.response_model_name = model
        if any(tokens):
            self._call.input_tokens, self._call.cache_read_input_tokens, output = tokens
            self._call.output_tokens = output
        if finish_reason is not None:
            self._call.finish_reasons = [finish_reason]
        _finish(self._call, error)
        self._call = None


def _finish(call: Any, error: str | None) -> None:
    if error is None:
        call.stop()
        return
    from opentelemetry.util.genai.types import Error

    call.fail(Error(message=None, type=error))
