"""Keys of tool calls, the same in each attempt of an execution."""

from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from celeriac.kit.json_types import JsonObject, dumps


class CallKeys:
    """Derives the key of a call from its tool, its arguments and the number of equal calls before.

    After a crash an agent may repeat a call or make another one. A repeated call gets the same key
    as before, any other call another key.
    """

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self._counts = Counter(counts or {})

    @property
    def counts(self) -> dict[str, int]:
        """The state from which another attempt continues."""
        return dict(self._counts)

    def next(self, tool: str, arguments: JsonObject) -> str:
        """Return the key of the next call."""
        digest = call_digest(tool, arguments)
        self._counts[digest] += 1
        return f"{tool}:{digest}:{self._counts[digest]}"


def call_digest(tool: str, arguments: Mapping[str, Any]) -> str:
    """Return 16 characters that stand for a tool and its arguments, whatever their order."""
    return sha256(dumps([tool, _sorted(dict(arguments))]).encode()).hexdigest()[:16]


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return sorted((key, _sorted(each)) for key, each in value.items())
    return [_sorted(each) for each in value] if isinstance(value, list) else value
