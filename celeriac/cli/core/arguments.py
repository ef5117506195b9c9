"""Arguments and options that commands share, and the reading of their values."""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from celeriac.cli.core.output import UsageProblemError

STDIN = "-"

_server_option = partial(typer.Option, rich_help_panel="Server")

Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        envvar="CELERIAC_HOME",
        metavar="DIRECTORY",
        help="Directory of Celeriac's data; .celeriac in the current directory if not given.",
        show_default=False,
    ),
]

ApiHost = Annotated[
    str | None, typer.Option(help="Address of the API; CELERIAC_API_HOST, or 127.0.0.1.")
]
ApiPort = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="The API's port, 0 for any; CELERIAC_API_PORT, or 8321."),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        "-I",
        metavar="MODULE",
        help="A module with Celery tasks of your own for the worker. Repeatable.",
    ),
]

Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]

ApiUrl = Annotated[
    str | None,
    _server_option(
        "--api-url",
        envvar="CELERIAC_API_URL",
        metavar="URL",
        help="Address of the API; that of the stack running in the home if not given.",
    ),
]

ApiKey = Annotated[
    str | None,
    _server_option(
        "--api-key",
        envvar="CELERIAC_API_KEY",
        metavar="KEY",
        help="API key; the home's own if not given.",
    ),
]

WorkspaceOption = Annotated[
    str | None,
    _server_option(
        "--workspace",
        envvar="CELERIAC_WORKSPACE",
        metavar="NAME",
        help="The workspace to work in, for a key of your personal one; that of the key if not "
        "given.",
    ),
]

ServerHome = Annotated[
    Path | None,
    _server_option(
        "--home",
        envvar="CELERIAC_HOME",
        metavar="DIRECTORY",
        help="Home of the running stack; .celeriac in the current directory if not given.",
        show_default=False,
    ),
]

Limit = Annotated[
    int, typer.Option("--limit", "-n", min=1, help="How many to show, the newest first.")
]
Description = Annotated[str | None, typer.Option(help="What it is for.")]


def gather(pairs: Sequence[str], files: Sequence[str], inputs: Sequence[str]) -> dict[str, Any]:
    """Return all variables: `inputs` override `files`, and `pairs` override both.

    Raises UsageProblemError.
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
            f"{option} {pair!r} is not a {what}.",
            cure=f"Write {option} name=text, or {option} name:=JSON for numbers, lists, objects.",
        )
    return name, parse_json(text, f"{option} {name}") if as_json else text


def parse_json(text: str, where: str) -> Any:
    """Return the JSON value in `text`. Raises UsageProblemError, which names `where`."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageProblemError(f"{where}: this is not JSON: {error}.") from error


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
        raise UsageProblemError(f"{path} is not UTF-8 text.") from error


def _source(given: str) -> str:
    name, separator, path = given.partition("=")
    return path if separator else name


def _input(given: str) -> dict[str, Any]:
    """`NAME=FILE` puts a file's text into one variable; `FILE` holds variables as JSON."""
    name, separator, path = given.partition("=")
    if separator and name:
        try:
            return {name: read_text(path)}
        except UsageProblemError as error:
            cure = f"--input {name}=FILE reads a file; --var {name}=TEXT takes the text itself."
            raise UsageProblemError(error.message, cure=cure) from error
    return parse_object(read_text(given), given)


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
    """Return a copy of the specification in the file, or of the current one without a file."""
    if file is not None:
        return parse_object(read_text(file), file)
    return dict(current or {})


def assign(spec: dict[str, Any], assignments: Sequence[str]) -> None:
    """Set fields of `spec` from `a.b=text` and `a.b:=JSON`. Raises UsageProblemError."""
    for assignment in assignments:
        path, value = parse_pair(assignment)
        *parents, name = path.split(".")
        place = spec
        for parent in parents:
            inner = place.get(parent) or {}
            if not isinstance(inner, dict):
                raise UsageProblemError(f"--set {path}: {parent} holds no fields.")
            # a copy: `spec` shares its parts with the specification that it was copied from
            place[parent] = place = dict(inner)
        place[name] = value


def put(spec: dict[str, Any], **values: Any) -> None:
    """Set those of `values` that are not None."""
    spec.update({name: value for name, value in values.items() if value is not None})


def json_argument(text: str | None, option: str) -> Any:
    """Return the JSON value of an option, which is given inline or as the name of a file."""
    if text is None:
        return None
    inline = text.lstrip().startswith(("{", "["))
    return parse_json(text if inline else read_text(text), option)


def text_argument(text: str | None, file: str | None, option: str) -> str | None:
    """Return the text that is given inline or in a file. Raises UsageProblemError if both are."""
    if text is not None and file is not None:
        raise UsageProblemError(f"Give {option} or {option}-file, not both.")
    return read_text(file) if file is not None else text
