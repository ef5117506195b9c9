"""Validates values against JSON schemas, offline and within bounds (docs/schemas.md).

Validation is one call of a library that holds the interpreter lock and can't be stopped. Its cost
is therefore calculated first (`cost`). A schema that costs too much is refused. A value that would
take long is left to a child process that can be killed: `services.catalog.schemas` starts it.
"""

import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import jsonschema_rs

from celeriac.domain.errors import SchemaInvalidError
from celeriac.domain.schemas import program
from celeriac.domain.schemas.cost import Cost, SchemaCostError, cost_of
from celeriac.kit.cache import WeighedCache
from celeriac.kit.json_types import JsonObject, JsonValue, dumps, loads
from celeriac.kit.text import clip
from celeriac.kit.words import counted

MAX_SCHEMA_BYTES = 100_000

_INLINE_STEPS = 1_000_000
"""At most this much is validated in this process: 20 ms, during which no other thread runs."""

_TURN_STEPS = 50_000
_TURN = threading.Lock()
"""Held while a schema is compiled or a value of more than `_TURN_STEPS` is validated. Without it,
the event loop would wait for every thread that does so at once."""

_QUICK_STEPS = 500_000
_QUICK_VALUES = 10_000
"""Limits of what an event loop may validate; the second also bounds the cost of measuring."""

_LISTED_STEPS = 5_000
_LISTED_IN_CHILD_STEPS = 200_000
"""Up to these, all faults of a value are listed, at 10 µs each: in this process, and in a child
process. Beyond, only the first one is."""

_MESSAGE_CHARACTERS = 300
_PLACE_CHARACTERS = 200
_CACHED_BYTES = 64_000_000
_MANY = 50_000_000


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with an input; its place is a path such as `lead.size`, or empty."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


@dataclass(frozen=True, slots=True)
class ChildValidation:
    """A validation that takes too long for this process; `work` is the input of `program`."""

    work: bytes

    @staticmethod
    def faults(written: bytes) -> list[Fault] | None:
        """Read what the program wrote; None if it was ended before its verdict."""
        verdict, _, found = written.partition(b"\n")
        if verdict == b"true":
            return []
        if verdict != b"false":
            return None
        try:
            return _clipped(loads(found))
        except ValueError:
            return [Fault("", "the value doesn't fit, in more places than can be listed")]


@dataclass(frozen=True, slots=True)
class _Schema:
    """A schema that is within the bounds, compiled."""

    text: str
    cost: Cost
    validator: jsonschema_rs.Validator


_schemas: WeighedCache[str, _Schema] = WeighedCache(_CACHED_BYTES)


def check_schema(schema: JsonObject, *, field: str) -> None:
    """Raise SchemaInvalidError naming `field` if `schema` can't be used.

    The references of an accepted schema lead to places within it, its patterns compile, and both
    are within the bounds of docs/schemas.md.
    """
    _compiled(schema, field)


def validate(schema: JsonObject, value: JsonValue) -> list[Fault] | ChildValidation:
    """Return at most ten faults of `value`, none if it fits; or the work for a child process.

    Their messages name keywords and properties, and never repeat a value. May block for
    milliseconds. Raises SchemaInvalidError.
    """
    compiled = _compiled(schema, "schema")
    steps, _ = _steps(compiled, value, _MANY)
    if steps <= _INLINE_STEPS:
        with _TURN if steps > _TURN_STEPS else nullcontext():
            fits = compiled.validator.is_valid(value)
        if fits:
            return []
        if steps * compiled.cost.in_place <= _LISTED_STEPS:
            return _clipped(program.faults_of(compiled.validator, value))
    every = dumps(steps * compiled.cost.in_place <= _LISTED_IN_CHILD_STEPS)
    return ChildValidation(
        f'{{"schema":{compiled.text},"value":{dumps(value)},"all":{every}}}'.encode()
    )


def is_quick(schema: JsonObject, value: JsonValue) -> bool:
    """Whether an event loop may validate `value`: it takes a few milliseconds at most.

    Raises SchemaInvalidError.
    """
    steps, values = _steps(_compiled(schema, "schema"), value, _QUICK_VALUES)
    return values <= _QUICK_VALUES and steps <= _QUICK_STEPS


def unfolded(schema: JsonObject) -> int | None:
    """Return the number of subschemas after all references are replaced by what they refer to.

    None if the schema is recursive. Raises SchemaInvalidError.
    """
    return _compiled(schema, "schema").cost.unfolded


def _compiled(schema: JsonObject, field: str) -> _Schema:
    try:
        text = dumps(schema)
    except TypeError as error:
        raise SchemaInvalidError(
            f"{field} is not a valid JSON Schema: it is not JSON.", field=field
        ) from error
    size = len(text.encode())
    if size > MAX_SCHEMA_BYTES:
        raise SchemaInvalidError(
            f"{field} has {counted(size, 'byte')}; the limit is {MAX_SCHEMA_BYTES}.", field=field
        )
    try:
        return _schemas.get(text, lambda: _compile(text), 20 * size + 10_000)
    except SchemaCostError as error:
        raise SchemaInvalidError(
            f"{field} is refused: {clip(str(error), _MESSAGE_CHARACTERS)}.", field=field
        ) from error
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        reason = clip(str(error).splitlines()[0], _MESSAGE_CHARACTERS)
        raise SchemaInvalidError(
            f"{field} is not a valid JSON Schema: {reason}", field=field
        ) from error


def _compile(text: str) -> _Schema:
    schema = loads(text)
    cost = cost_of(schema)  # before anything is compiled
    with _TURN:
        return _Schema(text, cost, program.validator_of(schema))


def _steps(schema: _Schema, value: JsonValue, most: int) -> tuple[int, int]:
    """Return the steps that validation takes, and the values counted.

    Stops counting at more than `most` values.
    """
    values = characters = depth = 0
    level = [value]
    while level and values <= most:
        inner: list[JsonValue] = []
        values += len(level)
        for item in level:
            if isinstance(item, str):
                characters += _bytes(item)
            elif isinstance(item, Mapping):
                values += len(item)
                characters += sum(map(_bytes, item))
                inner.extend(item.values())
            elif isinstance(item, list | tuple):
                inner.extend(item)
            if values + len(inner) > most:
                values += len(inner)
                break
        level = inner
        depth += 1
    return schema.cost.of(values=values, characters=characters, depth=depth), values


def _bytes(text: object) -> int:
    if not isinstance(text, str):
        return 0
    return len(text) if text.isascii() else 4 * len(text)


def _clipped(found: Sequence[tuple[Sequence[str | int], str]]) -> list[Fault]:
    return [
        Fault(
            clip(".".join(clip(str(part), 100) for part in path), _PLACE_CHARACTERS),
            clip(message, _MESSAGE_CHARACTERS),
        )
        for path, message in found
    ]
