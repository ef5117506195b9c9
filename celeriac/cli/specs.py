"""Specifications of agents and tasks, put together from files and options."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from celeriac.cli.exits import UsageProblemError
from celeriac.cli.variables import parse_json, parse_object, parse_pair, read_text

SpecFile = Annotated[
    str | None,
    typer.Option("--spec", metavar="FILE", help="The specification as a JSON object; - for stdin."),
]

Assignments = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="PATH=TEXT",
        help="Any other field, as limits.hard_seconds:=60 (:= for JSON, = for text).",
    ),
]


def begin_spec(file: str | None, current: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the specification to start from: the file's, else a copy of the current one."""
    if file is not None:
        return parse_object(read_text(file), file)
    return dict(current or {})


def assign(spec: dict[str, Any], assignments: Sequence[str]) -> None:
    """Set fields of `spec` as `a.b=text` and `a.b:=JSON` say. Raises UsageProblemError."""
    for assignment in assignments:
        path, value = parse_pair(assignment)
        *parents, name = path.split(".")
        place = spec
        for parent in parents:
            inner = place.get(parent) or {}
            if not isinstance(inner, dict):
                raise UsageProblemError(f"--set {path}: {parent} holds no fields.")
            # a copy: the specification that this one was begun from stays as it is
            place[parent] = place = dict(inner)
        place[name] = value


def put(spec: dict[str, Any], **values: Any) -> None:
    """Set those of `values` that are not None."""
    spec.update({name: value for name, value in values.items() if value is not None})


def json_argument(text: str | None, option: str) -> Any:
    """Return the JSON value that an option gives inline, or in the file that it names."""
    if text is None:
        return None
    inline = text.lstrip().startswith(("{", "["))
    return parse_json(text if inline else read_text(text), option)


def text_argument(text: str | None, file: str | None, option: str) -> str | None:
    """Return the text that is given inline or in a file. Raises UsageProblemError for both."""
    if text is not None and file is not None:
        raise UsageProblemError(f"Give {option} or {option}-file, not both.")
    return read_text(file) if file is not None else text
