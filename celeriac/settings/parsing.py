"""Parsing of environment variables, and messages about wrong values."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_settings import NoDecode

from celeriac.kit.json_types import loads
from celeriac.kit.words import counted


def read_names(value: Any) -> Any:
    """Read names from a variable: `a,b` or `["a", "b"]`."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return read_json(value)
    return [name.strip() for name in value.split(",") if name.strip()]


def read_json(value: Any) -> Any:
    """Read a JSON text; raises ValueError for what is none."""
    if not isinstance(value, str):
        return value
    try:
        return loads(value)
    except ValueError as error:
        raise ValueError(f"must be JSON: {error}") from error


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(read_names)]
"""Names, in a variable separated by commas."""


_MOST_PORT = 65535


def checked_url(url: str | None, schemes: Sequence[str] = ()) -> str | None:
    """Return `url` if it has one of the schemes (if any are given), and a valid port.

    Raises ValueError. The URL stays out of the message: it may hold a password.
    """
    if url is None:
        return url
    parts = urlsplit(url)
    if schemes and parts.scheme not in schemes:
        raise ValueError("must begin with " + " or ".join(f"{each}://" for each in schemes))
    for host in parts.netloc.rpartition("@")[2].split(","):
        _, colon, port = host.rpartition("]")[2].partition(":")
        if colon and port and not (port.isascii() and port.isdigit() and int(port) <= _MOST_PORT):
            raise ValueError("has a port that is no number from 0 to 65535")
    return url


_LONGEST = 60
_BOUNDS = (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than"))

_NUMBERS = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than_equal": "a number",
    "greater_than": "a number",
    "less_than_equal": "a number",
    "less_than": "a number",
    "int_parsing_size": "a whole number",
}
_FLAGS = frozenset({"bool_parsing", "bool_type"})

_OTHERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": lambda _: "is missing",
    "extra_forbidden": lambda _: "is not known here",
    "string_type": lambda _: "must be a text",
    "dict_type": lambda _: "must be a JSON object",
    "mapping_type": lambda _: "must be a JSON object",
    "model_type": lambda _: "must be a JSON object",
    "model_attributes_type": lambda _: "must be a JSON object",
    "tuple_type": lambda _: "must be a list",
    "list_type": lambda _: "must be a list",
    "string_pattern_mismatch": lambda said: f"must match the pattern {said['pattern']}",
    "string_too_short": lambda said: (
        f"must have at least {counted(said['min_length'], 'character')}"
    ),
    "string_too_long": lambda said: f"must have at most {counted(said['max_length'], 'character')}",
    "too_short": lambda said: (
        f"must have at least {counted(said['min_length'], 'entry', 'entries')}"
    ),
    "too_long": lambda said: f"must have at most {counted(said['max_length'], 'entry', 'entries')}",
}


def wording(fault: Mapping[str, Any], field: FieldInfo | None) -> str:
    """Return what is wrong with a value, from Pydantic's `fault`, without its variable's name.

    `field` is the setting's, whose bounds are named; None where the fault lies within its value.
    Only numbers, flags and choices are quoted: anything else may hold a password.
    """
    kind, said = fault["type"], fault.get("ctx") or {}
    if kind in _NUMBERS:
        return f"must be {_NUMBERS[kind]}{_range(field, said)}{_given(fault, field)}"
    if kind in _FLAGS:
        return f"must be true or false{_given(fault, field)}"
    if kind == "literal_error":
        return f"must be one of {said['expected'].replace(' or ', ', ')}{_given(fault, field)}"
    if kind in _OTHERS:
        return _OTHERS[kind](said)
    return str(fault["msg"]).removeprefix("Value error, ")


def _range(field: FieldInfo | None, said: Mapping[str, Any]) -> str:
    """Return the bounds of a number: all of the setting's, or the one that it is outside of."""
    if field is None:
        bounds = {name: said[name] for name, _ in _BOUNDS if name in said}
    else:
        bounds = {
            name: getattr(each, name)
            for each in field.metadata
            for name, _ in _BOUNDS
            if hasattr(each, name)
        }
    words = [f"{word} {bounds[name]:g}" for name, word in _BOUNDS if name in bounds]
    return f", {' and '.join(words)}" if words else ""


def _given(fault: Mapping[str, Any], field: FieldInfo | None) -> str:
    """Quote the value, where it is a setting's own: within JSON it may be a secret."""
    value = fault.get("input")
    if field is None or not isinstance(value, str | int | float):
        return ""
    shown = str(value)
    return f", not {shown[:_LONGEST]!r}" + ("…" if len(shown) > _LONGEST else "")
