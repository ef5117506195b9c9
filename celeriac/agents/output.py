"""Results of agents against the output schema of their task."""

import contextlib
import re
from typing import Any

from celeriac.agents.results import encode_result
from celeriac.domain.errors import BusyError, OutputInvalidError
from celeriac.domain.schemas import is_quick
from celeriac.kit.json_types import JsonObject, JsonValue, loads
from celeriac.kit.threads import CHECKS
from celeriac.services.catalog.schemas import violations


async def violations_of(schema: JsonObject, value: JsonValue) -> list[str]:
    """Return the violations of `schema` in `value`.

    Values that take more than a few milliseconds are checked in a thread. Waits for a free thread
    until the attempt's time limit.
    """
    if is_quick(schema, value):
        return violations(schema, value)
    while True:
        with contextlib.suppress(BusyError):
            return await CHECKS.run(violations, schema, value)


async def final_result(value: object, schema: JsonObject | None, source: str) -> JsonValue:
    """Return the result of an agent as it is stored.

    Raises the errors of `encode_result`, and OutputInvalidError, which names `source` and each
    fault, for a result that doesn't fit the task's output `schema`.
    """
    result = loads(encode_result(value, re.sub("^the ", "The ", source)))
    if schema is not None and (faults := await violations_of(schema, result)):
        raise OutputInvalidError(
            f"The result of {source} doesn't fit the task's output schema: {'; '.join(faults)}.",
            faults=faults,
        )
    return result


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
