"""Keys of tool calls: a repeated call gets the same key, any other call another."""

from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from celeriac.kit.json_types import JsonObject, dumps


class CallKeys:
    """Names each call of an execution by what is called with what, and for which time.

    After a crash an agent may repeat a call, or make another instead: the same call gets the same
    name, another one never does.
    """

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        """Go on from the `counts` of an earlier attempt."""
        self._counts = Counter(counts or {})

    @property
    def counts(self) -> dict[str, int]:
        """What another attempt goes on from."""
        return dict(self._counts)

    def next(self, tool: str, arguments: JsonObject) -> str:
        """Return the name of a call that is made now."""
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
