"""JSON schemas of variables and results, held against values without any network."""

from dataclasses import dataclass
from functools import lru_cache

import jsonschema_rs

from celeriac.domain.errors import SchemaInvalidError, VariablesInvalidError
from celeriac.kit.jsontypes import JsonObject, JsonValue, dumps, loads

MAX_SCHEMA_BYTES = 100_000
_MAX_REPORTED = 10


@lru_cache(maxsize=1024)
def _compiled(schema_text: str) -> jsonschema_rs.Validator:
    # offline: a $ref must not make the server fetch addresses; the linear-time regex engine
    # keeps a hostile `pattern` from hanging a request.
    return jsonschema_rs.validator_for(
        loads(schema_text),
        pattern_options=jsonschema_rs.RegexOptions(),
        offline=True,
    )


def check_schema(schema: JsonObject, *, field: str) -> None:
    """Accept `schema` or raise SchemaInvalidError naming `field`.

    References to other documents are refused: only `#/…` within the schema may be used.
    """
    text = dumps(schema)
    if len(text) > MAX_SCHEMA_BYTES:
        raise SchemaInvalidError(
            f"{field} has {len(text)} bytes; the limit is {MAX_SCHEMA_BYTES}.", field=field
        )
    try:
        _compiled(text)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        reason = str(error).splitlines()[0]
        raise SchemaInvalidError(
            f"{field} is not a valid JSON Schema: {reason}", field=field
        ) from error


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one place of a value; the place is a path as in `lead.size`."""

    place: str
    message: str


def faults(schema: JsonObject, value: JsonValue) -> list[Fault]:
    """Return at most ten faults of `value` under `schema`, none if it fits."""
    found: list[Fault] = []
    for error in _compiled(dumps(schema)).iter_errors(value):
        place = ".".join(str(part) for part in error.instance_path)
        found.append(Fault(place, error.message))
        if len(found) == _MAX_REPORTED:
            break
    return found


def violations(schema: JsonObject, value: JsonValue) -> list[str]:
    """Return what is wrong with `value` under `schema`: at most ten sentences, none if it fits."""
    return [
        f"{fault.place}: {fault.message}" if fault.place else fault.message
        for fault in faults(schema, value)
    ]


def check_variables(schema: JsonObject, variables: JsonObject) -> None:
    """Accept the variables of an execution or raise VariablesInvalidError naming each fault."""
    if not schema or _compiled(dumps(schema)).is_valid(variables):
        return
    found = violations(schema, variables)
    raise VariablesInvalidError(
        f"The variables don't fit the task's schema: {'; '.join(found)}.",
        field="variables",
        faults=found,
    )
