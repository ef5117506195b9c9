"""JSON schemas of variables and results, held against values without any network."""

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


def violations(schema: JsonObject, value: JsonValue) -> list[str]:
    """Return what is wrong with `value` under `schema`: at most ten sentences, none if it fits."""
    found: list[str] = []
    for error in _compiled(dumps(schema)).iter_errors(value):
        place = ".".join(str(part) for part in error.instance_path)
        found.append(f"{place}: {error.message}" if place else error.message)
        if len(found) == _MAX_REPORTED:
            break
    return found


def check_variables(schema: JsonObject, variables: JsonObject) -> None:
    """Accept the variables of an execution or raise VariablesInvalidError naming each fault."""
    if not schema or _compiled(dumps(schema)).is_valid(variables):
        return
    faults = violations(schema, variables)
    raise VariablesInvalidError(
        f"The variables don't fit the task's schema: {'; '.join(faults)}.",
        field="variables",
        faults=faults,
    )
