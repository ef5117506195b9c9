"""Structured output: a task's JSON schema as a response format, and the answers to it."""

from typing import Any

from pydantic_ai import ModelRetry, NativeOutput, StructuredDict, exceptions

from celeriac.agents.output import ObjectSchema
from celeriac.domain.errors import AgentMisconfiguredError
from celeriac.domain.schemas import unfolded
from celeriac.kit.json_types import JsonObject, JsonValue, dumps, loads

_NAME = "result"

MAX_UNFOLDED = 5_000
"""Subschemas that a model may be given: their references are written out for it."""


class StructuredOutput:
    """What a run must return under a JSON schema.

    Models constrain their answer to the schema themselves (`response_format`). Tool calls are not
    used: small models fail at them.
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
        self._schema = ObjectSchema(schema)
        try:
            self.type: NativeOutput[dict[str, Any]] = NativeOutput(
                # a copy: the library adds to what it is given
                StructuredDict(loads(dumps(self._schema.asked)), name=_NAME)
            )
        except exceptions.UserError as error:
            raise AgentMisconfiguredError(
                "The task's output_schema can't be given to a model: references that lead back "
                "to themselves aren't supported. Write the nesting out to a fixed depth.",
                field="output_schema",
            ) from error

    async def check(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return `answer`, or ask the model for a better one by raising ModelRetry."""
        faults = await self._schema.faults(answer)
        if faults:
            raise ModelRetry(f"The answer doesn't fit the schema: {'; '.join(faults)}.")
        return answer

    async def explain(self, text: str) -> str:
        """Return in one sentence why the answer `text` isn't what was asked for."""
        try:
            answer = loads(text)
        except ValueError as error:
            return f"it is no JSON ({error})"
        if not isinstance(answer, dict):
            return "it is no JSON object"
        return "; ".join(await self._schema.faults(answer)) or "it could not be read"

    def value(self, answer: dict[str, Any]) -> JsonValue:
        """Return the value that the task's schema describes."""
        return self._schema.value(answer)
