"""Holds values against JSON schemas, without any network and within bounds.

Validation is one call of a library that keeps the interpreter to itself and can't be stopped. So
its cost is known beforehand (`cost`): schemas that cost too much are no schemas here, and a value
for which a good one would take long is validated in a child process with limits of its own.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import jsonschema_rs

from celeriac.domain.errors import BusyError, SchemaInvalidError, VariablesInvalidError
from celeriac.domain.schemas import program
from celeriac.domain.schemas.cost import Cost, SchemaCostError, cost_of
from celeriac.kit.cache import WeighedCache
from celeriac.kit.json_types import JsonObject, JsonValue, dumps, loads
from celeriac.kit.processes import ResourceLimits, launch, terminate_group
from celeriac.kit.text import clip

MAX_SCHEMA_BYTES = 100_000

_INLINE_STEPS = 1_000_000
"""What may be validated in this process: 20 ms at most in which nothing else of it runs."""

_TURN_STEPS = 50_000
_TURN = threading.Lock()
"""Held while a schema is compiled and a value beyond those steps is validated: threads that all do
so at once would keep the event loop waiting for each of them."""

_QUICK_STEPS = 500_000
_QUICK_VALUES = 10_000
"""What an event loop may validate itself; the second bounds what finding that out costs."""

_LISTED_STEPS = 5_000
_LISTED_IN_CHILD_STEPS = 200_000
"""Up to which all faults of a value are found, at ten microseconds each: here, and in a child.
Beyond, the first one is."""

_CHILD_SECONDS = 5
_CHILD_BYTES = 1024**3
_CHILDREN = threading.BoundedSemaphore(2)
_PATIENCE = 10.0

_MESSAGE_CHARACTERS = 300
_PLACE_CHARACTERS = 200
_CACHED_BYTES = 64_000_000
_MANY = 50_000_000


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one place of a value; the place is a path as in `lead.size`.

    The message names keywords and properties, and never repeats a value.
    """

    place: str
    message: str


@dataclass(frozen=True, slots=True)
class _Size:
    """How much there is in a value."""

    values: int
    characters: int
    depth: int


@dataclass(frozen=True, slots=True)
class _Schema:
    """A schema that is within the bounds, ready for use."""

    text: str
    cost: Cost
    validator: jsonschema_rs.Validator


_schemas: WeighedCache[str, _Schema] = WeighedCache(_CACHED_BYTES)


def check_schema(schema: JsonObject, *, field: str) -> None:
    """Accept `schema` or raise SchemaInvalidError naming `field`.

    A schema that is accepted can be used: its references lead to places within it, its patterns
    compile, and neither unfolds beyond the bounds (docs/schemas.md).
    """
    _ready(schema, field)


def faults(schema: JsonObject, value: JsonValue) -> list[Fault]:
    """Return at most ten faults of `value` under `schema`, none if it fits.

    May block for seconds where much has to be looked at (`is_quick`). Raises SchemaInvalidError for
    a schema that is not within the bounds, and BusyError where too many such values are
    looked at in this process already.
    """
    ready = _ready(schema, "schema")
    size = _measure(value, _MANY)
    steps = ready.cost.of(values=size.values, characters=size.characters, depth=size.depth)
    if steps <= _INLINE_STEPS:
        with _TURN if steps > _TURN_STEPS else nullcontext():
            fits = ready.validator.is_valid(value)
        if fits:
            return []
        if steps * ready.cost.in_place <= _LISTED_STEPS:
            return _told(program.faults_of(ready.validator, value))
    every = steps * ready.cost.in_place <= _LISTED_IN_CHILD_STEPS
    return _faults_in_child(ready, value, every=every)


def is_quick(schema: JsonObject, value: JsonValue) -> bool:
    """Whether `value` is validated within a few milliseconds, as an event loop needs it.

    Raises SchemaInvalidError.
    """
    ready = _ready(schema, "schema")
    size = _measure(value, _QUICK_VALUES)
    steps = ready.cost.of(values=size.values, characters=size.characters, depth=size.depth)
    return size.values <= _QUICK_VALUES and steps <= _QUICK_STEPS


def violations(schema: JsonObject, value: JsonValue) -> list[str]:
    """Return what `faults` does, each as a sentence that names its place."""
    return [
        f"{fault.place}: {fault.message}" if fault.place else fault.message
        for fault in faults(schema, value)
    ]


def unfolded(schema: JsonObject) -> int | None:
    """Return how many subschemas there are once all references are written out.

    None where one leads back to itself. Raises SchemaInvalidError.
    """
    return _ready(schema, "schema").cost.unfolded


def check_variables(schema: JsonObject, variables: JsonObject) -> None:
    """Accept the variables of an execution or raise VariablesInvalidError naming each fault."""
    if not schema:
        return
    found = violations(schema, variables)
    if found:
        raise VariablesInvalidError(
            f"The variables don't fit the task's schema: {'; '.join(found)}.",
            field="variables",
            faults=found,
        )


def _ready(schema: JsonObject, field: str) -> _Schema:
    try:
        text = dumps(schema)
    except TypeError as error:
        raise SchemaInvalidError(
            f"{field} is not a valid JSON Schema: it is no JSON.", field=field
        ) from error
    size = len(text.encode())
    if size > MAX_SCHEMA_BYTES:
        raise SchemaInvalidError(
            f"{field} has {size} bytes; the limit is {MAX_SCHEMA_BYTES}.", field=field
        )
    try:
        return _schemas.get(text, lambda: _compiled(text), 20 * size + 10_000)
    except SchemaCostError as error:
        raise SchemaInvalidError(
            f"{field} is refused: {clip(str(error), _MESSAGE_CHARACTERS)}.", field=field
        ) from error
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        reason = clip(str(error).splitlines()[0], _MESSAGE_CHARACTERS)
        raise SchemaInvalidError(
            f"{field} is not a valid JSON Schema: {reason}", field=field
        ) from error


def _compiled(text: str) -> _Schema:
    schema = loads(text)
    cost = cost_of(schema)  # before anything is compiled
    with _TURN:
        return _Schema(text, cost, program.validator_of(schema))


def _measure(value: JsonValue, most: int) -> _Size:
    """Measure a value; one that holds more than `most` values is not gone through to its end."""
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
    return _Size(values, characters, depth)


def _bytes(text: object) -> int:
    if not isinstance(text, str):
        return 0
    return len(text) if text.isascii() else 4 * len(text)


def _faults_in_child(ready: _Schema, value: JsonValue, *, every: bool) -> list[Fault]:
    work = f'{{"schema":{ready.text},"value":{dumps(value)},"all":{dumps(every)}}}'.encode()
    if not _CHILDREN.acquire(timeout=_PATIENCE):
        raise BusyError("Other large values are being validated; send the request again.")
    try:
        verdict, found = _run(work)
    finally:
        _CHILDREN.release()
    if verdict == b"true":
        return []
    if verdict != b"false":
        return [
            Fault(
                "",
                f"the schema takes more than {_CHILD_SECONDS} seconds, or too much memory, for a "
                "value of this size; make either smaller",
            )
        ]
    try:
        return _told(loads(found))
    except ValueError:
        return [Fault("", "the value doesn't fit, in more places than can be listed")]


def _run(work: bytes) -> tuple[bytes, bytes]:
    """Return the two lines of the program; empty where it was ended before it wrote them."""
    child = launch(
        [sys.executable, "-I", program.__file__],
        env={"PATH": os.defpath},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        limits=ResourceLimits(memory=_CHILD_BYTES, cpu_seconds=_CHILD_SECONDS),
    )
    try:
        written, _ = child.communicate(work, timeout=4 * _CHILD_SECONDS)
    except subprocess.TimeoutExpired:
        terminate_group(child.pid, 0)
        written, _ = child.communicate()
    verdict, _, found = written.partition(b"\n")
    return verdict, found


def _told(found: Sequence[tuple[Sequence[str | int], str]]) -> list[Fault]:
    return [
        Fault(
            clip(".".join(clip(str(part), 100) for part in path), _PLACE_CHARACTERS),
            clip(message, _MESSAGE_CHARACTERS),
        )
        for path, message in found
    ]
