"""What `ctx.ask` and `ctx.approve` ask, as the `ask` message of the child protocol."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from celeriac.kit.jsontypes import checked


def ask_message(
    title: str,
    *,
    key: str | None,
    schema: Mapping[str, Any] | None,
    expires_seconds: float | None,
    on_expiry: str | None,
    default: Any,
) -> dict[str, Any]:
    """Return a question to a person: free, or with a schema a form."""
    content = {"kind": "form" if schema else "question", "title": title, "schema": schema}
    return {
        "type": "ask",
        "key": key or _key_of(content),
        **content,
        "expires_seconds": expires_seconds,
        "on_expiry": on_expiry,
        "default": checked(default),
    }


def approve_message(
    tool: str,
    arguments: Mapping[str, Any] | None,
    *,
    key: str | None,
    title: str | None,
    expires_seconds: float | None,
    on_expiry: str | None,
) -> dict[str, Any]:
    """Return the question whether a tool may be called."""
    content = {"kind": "tool", "tool": tool, "arguments": dict(arguments or {})}
    return {
        "type": "ask",
        "key": key or _key_of(content),
        **content,
        "title": title or f"May {tool} be called?",
        "expires_seconds": expires_seconds,
        "on_expiry": on_expiry,
    }


def _key_of(content: Mapping[str, Any]) -> str:
    """Return the same key in every attempt for the same question."""
    text = json.dumps(checked(content), sort_keys=True)
    return f"{content['kind']}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
