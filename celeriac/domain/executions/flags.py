"""Flags: what is worth a look at an execution although it has not failed."""

from enum import StrEnum

from celeriac.kit.json_types import JsonValue

SILENT_SECONDS = 600.0
"""A running execution is silent if its last event is older; longer than most model calls take."""


class Flag(StrEnum):
    """What an execution may be flagged with. Names are part of the API (docs/operations.md)."""

    NO_OP = "no_op"
    """It completed without a model call, a tool call, a message or a step; its result is empty."""
    TOOLS_DENIED = "tools_denied"
    """Calls of tools were denied, by a rule or a person."""
    TRUNCATED = "truncated"
    """The model's token limit cut the result off."""
    SILENT = "silent"
    """It runs, waits for no answer, and has had no event for `SILENT_SECONDS`."""


def is_empty(result: JsonValue) -> bool:
    """Whether a result says nothing: null, or a text, list or object with nothing in it."""
    if isinstance(result, str):
        return not result.strip()
    return result is None or (isinstance(result, list | dict) and not result)
