"""Structured output: from a task's JSON schema to what a model is asked for, and back."""

from typing import Any

from pydantic_ai import ModelRetry, NativeOutput, StructuredDict, exceptions

from celeriac.agents.base import violations_of
from celeriac.domain.errors import AgentMisconfiguredError
from celeriac.domain.schemas import unfolded
from celeriac.kit.json_types import JsonObject, JsonValue, dumps, loads

_NAME = "result"
_WRAPPER = "value"
_DEFINITIONS = ("$defs", "definitions")

MAX_UNFOLDED = 5_000
"""Subschemas that a model may be given: their references are written out for it."""


class StructuredOutput:
    """What a run must return under a JSON schema.

    Models constrain their answer to the schema themselves (`response_format`); tool calls are too
    much for small ones. Providers want an object at the root: other schemas are wrapped into one.
    """

    def __init__(self, schema: JsonObject) -> None:
        """Write the schema out, which may take a while.

        Raises AgentMisconfiguredError where no model can be given `schema`, and SchemaInvalidError.
        """
        size = unfolded(schema)
        if size is not None and size > MAX_UNFOLDED:
            raise AgentMisconfiguredError(
                "The task's output_schema can't be given to a model: with its references written "
                f"out it has more than {MAX_UNFOLDED} subschemas. Refer to large ones less often.",
                field="output_schema",
            )
        self._schema = schema
        self._wrapped = schema.get("type") != "object"
        asked = _wrap(schema) if self._wrapped else schema
        try:
            self.type: NativeOutput[dict[str, Any]] = NativeOutput(
                # a copy: the library adds to what it is given
                StructuredDict(loads(dumps(asked)), name=_NAME)
            )
        except exceptions.UserError as error:
            raise AgentMisconfiguredError(
                "The task's output_schema can't be given to a model: references that lead back "
                "to themselves aren't supported. Write the nesting out to a fixed depth.",
                field="output_schema",
            ) from error

    async def check(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return `answer`, or ask the model for a better one by raising ModelRetry."""
        faults = await self.faults(answer)
        if faults:
            raise ModelRetry(f"The answer doesn't fit the schema: {'; '.join(faults)}.")
        return answer

    async def faults(self, answer: dict[str, Any]) -> list[str]:
        """Return what is wrong with `answer`, one sentence each."""
        if self._wrapped and _WRAPPER not in answer:
            return [f"{_WRAPPER} is missing"]
        return await violations_of(self._schema, self.value(answer))

    async def explain(self, text: str) -> str:
        """Return in one sentence why the answer `text` isn't what was asked for."""
        try:
            answer = loads(text)
        except ValueError as error:
            return f"it is no JSON ({error})"
        if not isinstance(answer, dict):
            return "it is no JSON object"
        return "; ".join(await self.faults(answer)) or "it could not be read"

    def value(self, answer: dict[str, Any]) -> JsonValue:
        """Return the value that the task's schema describes."""
        return answer[_WRAPPER] if self._wrapped else answer


def _wrap(schema: JsonObject) -> JsonObject:
    inner = {key: value for key, value in schema.items() if key not in _DEFINITIONS}
    definitions = {key: schema[key] for key in _DEFINITIONS if key in schema}
    return {
        "type": "object",
        "properties": {_WRAPPER: inner},
        "required": [_WRAPPER],
        "additionalProperties": False,
        **definitions,
    }
