"""From a request to variables: templates and conditions over `body`, `headers` and `query`."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Final

from celeriac.domain.errors import ExpressionError, InvalidInputError
from celeriac.domain.expressions import (
    Expression,
    ExpressionSyntaxError,
    Work,
    compiled,
)
from celeriac.domain.expressions.templates import render, text_template, texts_of
from celeriac.domain.workflows.validation import needed, value_faults
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.kit.text import clip

ROOTS: Final = ("body", "headers", "query")

_SHOWN = 60


def check_when(text: str | None) -> None:
    """Raise InvalidInputError, which names the field, if a condition can't be evaluated."""
    if text is None:
        return
    if text.lstrip().startswith("${{"):
        raise InvalidInputError("when is an expression: write it without ${{ }}.",
                                field="when")  # fmt: skip
    try:
        expression = compiled(text)
    except ExpressionSyntaxError as error:
        raise InvalidInputError(
            f"when, at {error.offset + 1}: {error.message}.", field="when"
        ) from error
    if expression.kind not in {None, "bool"}:
        raise InvalidInputError("when must give true or false: write a comparison.", field="when")
    for message in _reference_faults(expression):
        raise InvalidInputError(f"when: {message}.", field="when")


def check_mapping(mapping: JsonObject | None, schema: JsonObject, whose: str) -> None:
    """Raise InvalidInputError if a mapping can't give variables that fit `schema`.

    The field is the place in the mapping. What depends on the request is known only then. `whose`
    says whose schema it is, such as `task summarise`.
    """
    if mapping is None:
        return
    for path, text in texts_of(mapping):
        field = ".".join(map(str, ("mapping", *path)))
        try:
            expressions = [piece.expression for piece in text_template(text).pieces]
        except ExpressionSyntaxError as error:
            raise InvalidInputError(
                f"{field}, at {error.offset + 1}: {error.message}.", field=field
            ) from error
        for expression in expressions:
            for message in _reference_faults(expression):
                raise InvalidInputError(f"{field}: {message}.", field=field)
    for field, message in _schema_faults(mapping, schema, whose):
        raise InvalidInputError(f"{field}: {message}.", field=field)


def _schema_faults(
    mapping: JsonObject, schema: JsonObject, whose: str
) -> Iterator[tuple[str, str]]:
    for name in needed(schema):
        if name not in mapping:
            yield "mapping", f"the {whose} needs {clip(name, _SHOWN)}: add it"
    for fault in value_faults(("mapping",), mapping, schema, whose):
        yield fault.field, fault.message


def _reference_faults(expression: Expression) -> Iterator[str]:
    for reference in expression.references:
        root, rest = reference.path[0], reference.path[1:]
        if root not in ROOTS:
            near = get_close_matches(root, ROOTS, 1)
            cure = f"did you mean {near[0]}?" if near else f"there are {', '.join(ROOTS)}"
            yield f"there is no {clip(root, _SHOWN)} here; {cure}"
        elif root == "headers" and rest and rest[0] != rest[0].lower():
            yield f"names of headers are in small letters: write {clip(rest[0].lower(), _SHOWN)}"


def scope_of(body: JsonValue, headers: Mapping[str, str], query: Mapping[str, str]) -> JsonObject:
    """Return the values of the roots."""
    return {"body": body, "headers": dict(headers), "query": dict(query)}


def wanted(when: str | None, scope: JsonObject, work: Work) -> bool:
    """Return whether a condition holds. Raises InvalidInputError if it has no value."""
    if when is None:
        return True
    try:
        return compiled(when).holds(scope, work)
    except ExpressionError as error:
        raise InvalidInputError(f"The hook's when has no value: {error.message}") from error


def variables_of(mapping: JsonObject | None, scope: JsonObject, work: Work) -> JsonObject:
    """Return the variables of a request. Raises InvalidInputError if an expression has no value."""
    if mapping is None:
        body = scope["body"]
        if not isinstance(body, Mapping):
            raise InvalidInputError(
                "The body is not an object, so it can't be the variables; give the hook a mapping."
            )
        return body
    try:
        made = render(mapping, scope, work)
    except ExpressionError as error:
        raise InvalidInputError(f"The hook's mapping has no value: {error.message}") from error
    assert isinstance(made, dict)
    return made
