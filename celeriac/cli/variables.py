"""The variables of an execution as they are typed: `name=text`, `name:=JSON`, files, stdin."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celeriac.cli.exits import UsageProblemError

STDIN = "-"


def gather(pairs: Sequence[str], files: Sequence[str], inputs: Sequence[str]) -> dict[str, Any]:
    """Return all variables; what stands later here wins: `files`, then `inputs`, then `pairs`.

    Raises UsageProblemError naming what can't be understood.
    """
    if [*files, *(_source(each) for each in inputs)].count(STDIN) > 1:
        raise UsageProblemError("Standard input (-) can be read once only.")
    variables: dict[str, Any] = {}
    for path in files:
        variables |= parse_object(read_text(path), path)
    for each in inputs:
        variables |= _input(each)
    for pair in pairs:
        name, value = parse_pair(pair)
        variables[name] = value
    return variables


def parse_pair(pair: str, *, option: str = "--var", what: str = "variable") -> tuple[str, Any]:
    """Return name and value of `name=text` or `name:=JSON`, given to `option`.

    Raises UsageProblemError.
    """
    name, separator, text = pair.partition("=")
    as_json = name.endswith(":")
    name = name.removesuffix(":")
    if not separator or not name:
        raise UsageProblemError(
            f"{option} {pair!r} is no {what}.",
            cure=f"Write {option} name=text, or {option} name:=JSON for numbers, lists, objects.",
        )
    return name, parse_json(text, f"{option} {name}") if as_json else text


def parse_json(text: str, where: str) -> Any:
    """Return the JSON value in `text`; `where` names it in the UsageProblemError."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageProblemError(f"{where}: this is no JSON: {error}.") from error


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Return the JSON object in `text`. Raises UsageProblemError."""
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise UsageProblemError(f"{where}: there must be a JSON object, such as {{}}.")
    return value


def read_text(path: str) -> str:
    """Return the text of a file, or of standard input for `-`. Raises UsageProblemError."""
    try:
        if path == STDIN:
            return sys.stdin.read()
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageProblemError(f"{path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageProblemError(f"{path} is no UTF-8 text.") from error


def _source(given: str) -> str:
    name, separator, path = given.partition("=")
    return path if separator else name


def _input(given: str) -> dict[str, Any]:
    """`NAME=FILE` puts a file's text into one variable; `FILE` holds variables as JSON."""
    name, separator, path = given.partition("=")
    if separator and name:
        return {name: read_text(path)}
    return parse_object(read_text(given), given)
