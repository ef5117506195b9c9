"""A task's output schema as models are given it: with an object at the root."""

from typing import Any

from celeriac.agents.base import violations_of
from celeriac.kit.json_types import JsonObject, JsonValue

_WRAPPER = "value"
_DEFINITIONS = ("$defs", "definitions")


class ObjectSchema:
    """An output schema and the answers to it.

    Providers and tools take only objects. A schema with another root becomes the property `value`
    of one, and answers are unwrapped.
    """

    def __init__(self, schema: JsonObject) -> None:
        self._schema = schema
        self._wrapped = schema.get("type") != "object"

    @property
    def asked(self) -> JsonObject:
        """The schema to give to a model."""
        if not self._wrapped:
            return self._schema
        definitions = {key: self._schema[key] for key in _DEFINITIONS if key in self._schema}
        inner = {key: value for key, value in self._schema.items() if key not in definitions}
        return {
            "type": "object",
            "properties": {_WRAPPER: inner},
            "required": [_WRAPPER],
            "additionalProperties": False,
            **definitions,
        }

    def is_complete(self, answer: dict[str, Any]) -> bool:
        """Whether `answer` holds a value."""
        return not self._wrapped or _WRAPPER in answer

    def value(self, answer: dict[str, Any]) -> JsonValue:
        """Return the value that the task's schema describes."""
        return answer[_WRAPPER] if self._wrapped else answer

    async def faults(self, answer: dict[str, Any]) -> list[str]:
        """Return what is wrong with `answer`, one sentence each."""
        if not self.is_complete(answer):
            return [f"{_WRAPPER} is missing"]
        return await violations_of(self._schema, self.value(answer))
