"""From Claude Code's messages to the events of an execution."""

import time

from claude_agent_sdk import (
    AssistantMessage,
    Message,
    StreamEvent,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

from celeriac.agents.base import MAX_MESSAGE_CHARACTERS, emit_message
from celeriac.agents.llm.conversation import Deltas
from celeriac.agents.mcp.results import sanitize_json
from celeriac.domain.executions.events import EventType
from celeriac.kit.json_types import JsonObject, JsonValue, dumps, storable_text
from celeriac.kit.text import clip, clipped_field
from celeriac.logs import Step, get_logger
from celeriac.services.ports import RunContext

_log = get_logger(__name__)


class Transcript:
    """Records one attempt's conversation, and shows it as it is written."""

    def __init__(self, context: RunContext, earlier_calls: JsonObject) -> None:
        """Write to `context`; `earlier_calls` maps ids of calls of earlier attempts to tools."""
        self._context = context
        self.deltas = Deltas(context)
        self._open: dict[str, tuple[str, float]] = {}
        """The tool and the start of each open call, by its id."""
        self._earlier = dict(earlier_calls)

    @property
    def open_calls(self) -> dict[str, str]:
        """The tools that were called and have not answered, by the ids of the calls."""
        return {call_id: tool for call_id, (tool, _) in self._open.items()}

    async def record(self, message: Message) -> None:
        """Record a message; messages that are not part of the conversation are skipped."""
        match message:
            case StreamEvent():
                self._show(message)
            case AssistantMessage():
                self.deltas.flush()
                for block in message.content:
                    await self._assistant(block)
            case UserMessage(content=str() as text):
                await emit_message(self._context, "user", text)
            case UserMessage(content=blocks):
                for each in blocks:
                    await self._user(each)

    def _show(self, message: StreamEvent) -> None:
        if message.parent_tool_use_id is not None:
            return  # a helper agent's text is in its result
        match message.event:
            case {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}}:
                self.deltas.add("text", text)
            case {
                "type": "content_block_delta",
                "delta": {"type": "thinking_delta", "thinking": text},
            }:
                self.deltas.add("thinking", text)

    async def _assistant(self, block: object) -> None:
        match block:
            case TextBlock(text=text) if text:
                await emit_message(self._context, "assistant", text)
            case ThinkingBlock(thinking=text) if text:
                await emit_message(self._context, "assistant", text, thinking=True)
            case ToolUseBlock(id=call_id, name=tool, input=arguments):
                self._open[call_id] = tool, time.monotonic()
                kept = sanitize_json(arguments)
                text = dumps(kept)
                long = len(text) > MAX_MESSAGE_CHARACTERS
                await self._context.emit(
                    EventType.TOOL_CALL,
                    {
                        "id": storable_text(call_id),
                        **named(tool),
                        "arguments": clip(text, MAX_MESSAGE_CHARACTERS) if long else kept,
                    },
                )

    async def _user(self, block: object) -> None:
        match block:
            case TextBlock(text=text):
                await emit_message(self._context, "user", text)
            case ToolResultBlock():
                await self._result(block)

    async def _result(self, block: ToolResultBlock) -> None:
        unknown = str(self._earlier.get(block.tool_use_id, "unknown"))
        tool, began = self._open.pop(block.tool_use_id, (unknown, None))
        ms = None if began is None else round((time.monotonic() - began) * 1000)
        failed = bool(block.is_error)
        _log.info(Step.TOOL_EXECUTED, tool=tool, ms=ms, failed=failed)
        await self._context.emit(
            EventType.TOOL_RESULT,
            {
                "id": storable_text(block.tool_use_id),
                **named(tool),
                "ms": ms,
                "failed": failed,
                **clipped_field(
                    "content", storable_text(_text_of(block.content)), MAX_MESSAGE_CHARACTERS
                ),
            },
        )


def named(tool: str) -> dict[str, JsonValue]:
    """Return a tool's name, and that of its MCP server, as all runners record them."""
    name = storable_text(tool)
    if not name.startswith("mcp__"):
        return {"tool": name}
    _, server, own = (*name.split("__", 2), "")[:3]
    return {"server": server, "tool": own}


def _text_of(content: str | list[dict[str, JsonValue]] | None) -> str:
    """Return a tool's result as text; what is no text is named, not shown."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(
        str(block.get("text", "")) if block.get("type") == "text" else f"[{block.get('type')}]"
        for block in content
    )
