"""The JSON schema of a function's parameters."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from celeriac.agents.python.functions import CONTEXT_PARAMETER, type_hints
from celeriac.domain.errors import SchemaInvalidError
from celeriac.domain.schemas import check_schema

_REFERENCES = "#/$defs/{model}"


def variables_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the JSON schema of the parameters of `function`, without `ctx`.

    Parameters with defaults are not required. A parameter without a type hint, or whose hint has no
    JSON schema that tasks accept, takes any value. Other variables are refused, unless the function
    has a `**` parameter.
    """
    parameters = [
        each
        for each in inspect.signature(function).parameters.values()
        if each.name != CONTEXT_PARAMETER
    ]
    named = [each for each in parameters if each.kind is not each.VAR_KEYWORD]
    found: dict[str, Any] = {"type": "object", "properties": {}}
    definitions: dict[str, Any] = {}
    for parameter in named:
        schema = _of_hint(_hint(function, parameter), definitions)
        if parameter.default is not parameter.empty:
            schema |= _default(parameter.default)
        found["properties"][parameter.name] = schema
    required = [each.name for each in named if each.default is each.empty]
    if required:
        found["required"] = required
    if len(named) == len(parameters):
        found["additionalProperties"] = False
    if definitions:
        found["$defs"] = definitions
    return found


def _hint(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Evaluate one annotation; Any if that fails, which running the function reports."""
    if parameter.annotation is parameter.empty:
        return Any
    try:
        hints = type_hints(function, [parameter])
    except Exception:  # noqa: BLE001 - a user's annotation may raise anything
        return Any
    return hints[parameter.name]


def _of_hint(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a type, and add the schemas that it refers to to `definitions`."""
    if hint is Any:
        return {}
    try:
        schema = TypeAdapter(hint).json_schema(ref_template=_REFERENCES)
        own = schema.pop("$defs", {})
        check_schema({**schema, "$defs": own}, field="variables_schema")
    except (PydanticUserError, SchemaInvalidError):
        return {}
    if any(definitions.get(name, inner) != inner for name, inner in own.items()):
        return {}  # two types with the same name can't share a definition
    definitions.update(own)
    return schema


def _default(value: object) -> Mapping[str, Any]:
    try:
        return {"default": to_jsonable_python(value)}
    except PydanticSerializationError:
        return {}
