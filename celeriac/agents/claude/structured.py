"""Structured output: a task's JSON schema as Claude Code takes it, and its answer back."""

from claude_agent_sdk import ResultMessage

from celeriac.agents.base import clip, violations_of
from celeriac.domain.errors import OutputInvalidError
from celeriac.kit.jsontypes import JsonObject, JsonValue

_WRAPPER = "value"
_DEFINITIONS = ("$defs", "definitions")
_DIALECT = "$schema"
_SHOWN = 2_000


class StructuredOutput:
    """What a run must return under a JSON schema.

    Claude Code gives the schema to the model as a tool whose arguments are the answer, so its root
    must be an object: other schemas are wrapped into one.
    """

    def __init__(self, schema: JsonObject) -> None:
        self._schema = schema
        self._wrapped = schema.get("type") != "object"

    @property
    def output_format(self) -> dict[str, JsonValue]:
        """What the SDK is told."""
        schema = {key: value for key, value in self._schema.items() if key != _DIALECT}
        if self._wrapped:
            definitions = {key: schema.pop(key) for key in _DEFINITIONS if key in schema}
            schema = {
                "type": "object",
                "properties": {_WRAPPER: schema},
                "required": [_WRAPPER],
                "additionalProperties": False,
                **definitions,
            }
        return {"type": "json_schema", "schema": schema}

    async def value(self, result: ResultMessage) -> JsonValue:
        """Return the answer; raises OutputInvalidError where it doesn't fit."""
        answer = result.structured_output
        if not isinstance(answer, dict) or (self._wrapped and _WRAPPER not in answer):
            raise OutputInvalidError(
                "The agent gave its answer as a text, not as the task's output schema asks.",
                answer=clip(result.result or "", _SHOWN),
            )
        value = answer[_WRAPPER] if self._wrapped else answer
        if faults := await violations_of(self._schema, value):
            raise OutputInvalidError(
                f"The answer doesn't fit the task's output schema: {'; '.join(faults)}.",
                faults=faults,
            )
        return value
