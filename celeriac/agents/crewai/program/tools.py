"""Tool calls of the crew's agents, delegation among them included, into the execution's log."""

import json
import threading
import time
from typing import Any

from crewai.hooks import (
    ToolCallHookContext,
    register_after_tool_call_hook,
    register_before_tool_call_hook,
)

from .failures import clip
from .progress import MAX_TEXT, Progress


def log_tools(progress: Progress) -> None:
    """Log every tool call of this process as `tool_call` and `tool_result`."""
    began = threading.local()

    def before(context: ToolCallHookContext) -> None:
        began.at = time.monotonic()
        progress.tool(
            "tool_call", {"tool": context.tool_name, "arguments": _plain(context.tool_input)}
        )

    def after(context: ToolCallHookContext) -> None:
        seconds = time.monotonic() - getattr(began, "at", time.monotonic())
        progress.tool(
            "tool_result",
            {
                "tool": context.tool_name,
                "result": clip(str(context.tool_result), MAX_TEXT),
                "seconds": round(seconds, 3),
            },
        )

    register_before_tool_call_hook(before)
    register_after_tool_call_hook(after)


def _plain(value: Any) -> Any:
    """Return `value` as JSON can hold it; models make arguments of any kind."""
    return json.loads(json.dumps(value, default=str))
