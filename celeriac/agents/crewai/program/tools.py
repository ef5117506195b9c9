"""Tool calls of the crew's agents, delegation among them included, into the execution's log."""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from crewai.hooks import (
    ToolCallHookContext,
    register_after_tool_call_hook,
    register_before_tool_call_hook,
)

from .failures import clip
from .progress import MAX_TEXT, Progress, clipped


def log_tools(progress: Progress) -> None:
    """Log every tool call of this process as `tool_call` and `tool_result`."""
    under_way = _UnderWay()
    numbers = count(1)

    def before(context: ToolCallHookContext) -> None:
        call = _Call(f"call-{next(numbers)}", time.monotonic(), progress.place)
        under_way.calls.append(call)
        text = json.dumps(context.tool_input, default=str, ensure_ascii=False)
        arguments = json.loads(text) if len(text) <= MAX_TEXT else clip(text, MAX_TEXT)
        named = {"id": call.id, "tool": context.tool_name}
        progress.event_of("tool_call", {**named, "arguments": arguments, **call.place})

    def after(context: ToolCallHookContext) -> None:
        call = under_way.calls.pop()
        progress.event_of(
            "tool_result",
            {
                "id": call.id,
                "tool": context.tool_name,
                "ms": round((time.monotonic() - call.began) * 1000),
                **clipped("content", str(context.tool_result)),
                **call.place,
            },
        )

    register_before_tool_call_hook(before)
    register_after_tool_call_hook(after)


@dataclass(frozen=True)
class _Call:
    id: str
    began: float
    place: Mapping[str, str]


class _UnderWay(threading.local):
    """Tool calls of one thread that have not ended: a delegation holds calls of its own."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []
