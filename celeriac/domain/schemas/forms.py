"""Forms: a JSON schema as input fields, for people who answer on a page or in a terminal."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celeriac.kit.json_types import JsonObject, JsonValue, dumps, loads
from celeriac.kit.words import counted

_MAX_FIELDS = 50


@dataclass(frozen=True, slots=True)
class FormField:
    """An input field: a property of the schema's object."""

    name: str
    label: str
    hint: str
    required: bool
    choices: tuple[JsonValue, ...]
    """The allowed values; empty for free input."""
    default: str
    """The default as text; empty if there is none."""
    allowed: str
    """The allowed input in words: the type and its bounds."""
    is_number: bool
    is_json: bool
    """Whether it is an object or a list, entered as JSON."""

    def read(self, text: str) -> JsonValue:
        """Return the value of an input; a choice is entered as JSON.

        An input of a number that is not one stays a text, which the schema then refuses. Raises
        ValueError for invalid JSON.
        """
        if self.choices or self.is_json:
            return loads(text)
        if self.is_number:
            try:
                number = loads(text.strip())
            except ValueError:
                return text
            return number if isinstance(number, int | float) else text
        return text.replace("\r\n", "\n")

    def chosen(self, text: str) -> JsonValue:
        """Like `read`, for terminals: a choice may also be entered as it is displayed."""
        for choice in self.choices:
            if text in {_shown(choice), dumps(choice)}:
                return choice
        return text if self.choices else self.read(text)


def form_fields(schema: JsonObject) -> tuple[FormField, ...]:
    """Return the fields of a schema's object; none if fields can't represent it."""
    properties, required = schema.get("properties"), schema.get("required", [])
    if not ("object" in _types(schema) and isinstance(properties, dict)):
        return ()
    if len(properties) > _MAX_FIELDS or not isinstance(required, list):
        return ()
    if not all(isinstance(part, dict) for part in properties.values()):
        return ()
    return tuple(_field(name, part, required=name in required) for name, part in properties.items())


def form_value(schema: JsonObject, written: Mapping[str, str]) -> JsonValue:
    """Return the value of the inputs by field name, without the empty ones.

    Without any input it is null if the schema allows that. Raises FormFaultError.
    """
    value = {}
    for field in form_fields(schema):
        text = written.get(field.name, "")
        if text == "":
            continue
        try:
            value[field.name] = field.read(text)
        except ValueError as error:
            raise FormFaultError(field.name, f"must be JSON: {error}") from error
    return None if not value and "null" in _types(schema) else value


class FormFaultError(ValueError):
    """An input that can't be read."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.name = name


def _field(name: str, part: JsonObject, *, required: bool) -> FormField:
    kinds = _types(part)
    choices: tuple[JsonValue, ...] = ()
    if isinstance(part.get("enum"), list):
        choices = tuple(part["enum"])
    elif kinds == {"boolean"}:
        choices = (True, False)
    default: JsonValue = part.get("default")
    as_it_is = isinstance(default, str) and not choices
    return FormField(
        name=name,
        label=str(part.get("title") or name),
        hint=str(part.get("description") or ""),
        required=required,
        choices=choices,
        default=str(default) if as_it_is else dumps(default) if "default" in part else "",
        allowed=_allowed(part, kinds, choices),
        is_number=bool(kinds & {"number", "integer"}),
        is_json=bool(kinds & {"object", "array"}),
    )


_KINDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "yes or no",
    "object": "JSON object",
    "array": "JSON list",
}
_BOUNDS = (
    ("minimum", "at least {}"),
    ("exclusiveMinimum", "more than {}"),
    ("maximum", "at most {}"),
    ("exclusiveMaximum", "less than {}"),
    ("multipleOf", "a multiple of {}"),
    ("minLength", "at least {character}"),
    ("maxLength", "at most {character}"),
    ("minItems", "at least {entry}"),
    ("maxItems", "at most {entry}"),
    ("format", "as a {}"),
    ("pattern", "matching {}"),
)


def _allowed(part: JsonObject, kinds: set[str], choices: tuple[JsonValue, ...]) -> str:
    """Return the allowed input, such as `whole number, at least 0, at most 30`."""
    if choices:
        return "one of " + ", ".join(_shown(each) for each in choices)
    names = [name for kind, name in _KINDS.items() if kind in kinds]
    bounds = [
        _bound(words, part[key])
        for key, words in _BOUNDS
        if isinstance(part.get(key), str | int | float)
    ]
    return ", ".join([" or ".join(names), *bounds] if names else bounds)


def _bound(words: str, value: JsonValue) -> str:
    count = value if isinstance(value, int) else 0
    entries = counted(count, "entry", "entries")
    return words.format(_shown(value), character=counted(count, "character"), entry=entries)


def _shown(choice: JsonValue) -> str:
    return choice if isinstance(choice, str) else dumps(choice)


def _types(schema: JsonObject) -> set[str]:
    kind: Any = schema.get("type")
    return set(map(str, kind)) if isinstance(kind, list) else {str(kind)}
