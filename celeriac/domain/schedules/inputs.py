"""Inputs of schedules: their texts may hold expressions over the fire, `${{ fire.date }}`."""

from datetime import UTC, datetime
from typing import Final

from celeriac.domain.errors import ExpressionError, InvalidInputError
from celeriac.domain.expressions import Expression, ExpressionSyntaxError
from celeriac.domain.expressions.templates import render, text_template, texts_of
from celeriac.domain.schedules.model import FireKind
from celeriac.domain.schedules.zones import time_zone
from celeriac.kit.json_types import JsonObject
from celeriac.kit.text import clip

ROOT: Final = "fire"
FIELDS: Final = ("scheduled_at", "local", "date", "kind")

_SHOWN = 60


def check_input(given: JsonObject) -> None:
    """Raise InvalidInputError, which names the place, if an expression can't be evaluated."""
    for path, text in texts_of(given):
        field = ".".join(map(str, ("input", *path)))
        try:
            expressions = [piece.expression for piece in text_template(text).pieces]
        except ExpressionSyntaxError as error:
            raise InvalidInputError(
                f"{field}, at {error.offset + 1}: {error.message}.", field=field
            ) from error
        for expression in expressions:
            _check_references(expression, field)


def _check_references(expression: Expression, field: str) -> None:
    for reference in expression.references:
        root, *rest = reference.path
        if root != ROOT:
            raise InvalidInputError(
                f"{field}: there is no {clip(root, _SHOWN)} here; there is {ROOT}.", field=field
            )
        if rest and rest[0] not in FIELDS:
            raise InvalidInputError(
                f"{field}: a fire has no {clip(rest[0], _SHOWN)}; it has {', '.join(FIELDS)}.",
                field=field,
            )


def input_of(given: JsonObject, at: datetime, zone: str, kind: FireKind) -> JsonObject:
    """Return the input of the fire for `at`. Raises InvalidInputError if it has no value."""
    local = at.astimezone(time_zone(zone))
    fire: JsonObject = {
        "scheduled_at": at.astimezone(UTC).isoformat(),
        "local": local.isoformat(),
        "date": local.date().isoformat(),
        "kind": kind.value,
    }
    try:
        made = render(given, {ROOT: fire})
    except ExpressionError as error:
        raise InvalidInputError(
            f"The schedule's input has no value: {error.message}", field="input"
        ) from error
    assert isinstance(made, dict)
    return made
