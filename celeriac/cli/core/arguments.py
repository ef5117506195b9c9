"""Arguments and options that commands share.

Variables, specifications, run options, worker arguments.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from celeriac.cli.core.output import UsageProblemError
from celeriac.cli.ids import IdOf

if TYPE_CHECKING:
    from celeriac.client.executions import ExecutionOptions


DEFAULT_CONCURRENCY = 100
"""Executions wait for models and the network far more than they compute (DESIGN section 6)."""


CELERY = ("-P", "-m", "celeriac.worker")
"""Python's arguments for Celery's program, with the current directory last on the path."""

_QUIET = ("--without-gossip", "--without-mingle")
"""Workers needn't know of each other: what each does is in the database."""


def worker_arguments(given: Sequence[str], queues: Sequence[str]) -> list[str]:
    """Return `given`, Celery's own worker options, with our defaults before them.

    The pool is `threads`; with `--autoscale`, which threads can't do, `prefork`. Concurrency is
    100 in threads and Celery's own choice in other pools. `queues` are listened to unless `given`
    names queues. The node's name has the id of this process, so that two workers of one host are
    told apart. Raises UsageProblemError for a pool that a worker can't use.
    """
    from celeriac.adapters.celery_queue import pool_refusal

    autoscale = _has(given, "--autoscale")
    pool = _value(given, "-P", "--pool") or ("prefork" if autoscale else "threads")
    refusal = pool_refusal(pool)
    if refusal is not None:
        raise UsageProblemError(refusal)
    defaults: list[str] = []
    if not _has(given, "-P", "--pool"):
        defaults.append(f"--pool={pool}")
    if pool == "threads" and not autoscale and not _has(given, "-c", "--concurrency"):
        defaults.append(f"--concurrency={DEFAULT_CONCURRENCY}")
    if not _has(given, "-Q", "--queues"):
        defaults.append(f"--queues={','.join(queues)}")
    if not _has(given, "-n", "--hostname"):
        defaults.append(f"--hostname={node_name()}@%h")
    if not _has(given, "-l", "--loglevel"):
        defaults.append("--loglevel=INFO")
    defaults += [flag for flag in _QUIET if not _has(given, flag)]
    return [*defaults, *given]


def node_name() -> str:
    """Return what the worker that this process starts or becomes is called on its host."""
    return f"celeriac-{os.getpid()}"


def include_arguments(modules: Sequence[str]) -> list[str]:
    """Return the option that has Celery load `modules`, each a name or several with commas.

    Raises UsageProblemError where one can't be found, here or among what is installed.
    """
    names = [name.strip() for each in modules for name in each.split(",") if name.strip()]
    check_modules(names, "--include")
    return [f"--include={','.join(names)}"] if names else []


def check_modules(names: Sequence[str], source: str) -> None:
    """Raise UsageProblemError where there is no module of a name that `source` gives."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    for name in names:
        if not _exists(name):
            raise UsageProblemError(
                f"{source} {name}: there is no module of that name in this directory or among "
                "the installed packages."
            )


def _exists(module: str) -> bool:
    """Whether a module is there; its parents are imported to find out."""
    try:
        return find_spec(module) is not None
    except ImportError:  # its parent is no package, or can't be imported
        return False


def _has(given: Sequence[str], *names: str) -> bool:
    return any(_names(argument, name) for argument in given for name in names)


def _names(argument: str, name: str) -> bool:
    """Whether `argument` is the option `name`: `-c`, `-c4`, `--pool` or `--pool=solo`."""
    if name.startswith("--"):
        return argument == name or argument.startswith(f"{name}=")
    return argument.startswith(name) and not argument.startswith("--")


def _value(given: Sequence[str], short: str, long: str) -> str | None:
    """Return the last value given to an option, as Celery takes the last one too."""
    value = None
    for index, argument in enumerate(given):
        if argument in {short, long}:
            value = given[index + 1] if index + 1 < len(given) else None
        elif argument.startswith(f"{long}="):
            value = argument.removeprefix(f"{long}=")
        elif _names(argument, short):
            value = argument.removeprefix(short).removeprefix("=")
    return value


_SERVER = "Which server"

Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        envvar="CELERIAC_HOME",
        metavar="DIRECTORY",
        help="Where Celeriac keeps its data; .celeriac in the current directory if not given.",
        show_default=False,
    ),
]

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs.")]

ApiUrl = Annotated[
    str | None,
    typer.Option(
        "--api-url",
        envvar="CELERIAC_API_URL",
        metavar="URL",
        help="Address of the API; that of the stack running in the home if not given.",
        rich_help_panel=_SERVER,
    ),
]

ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="CELERIAC_API_KEY",
        metavar="KEY",
        help="API key; the home's own if not given.",
        rich_help_panel=_SERVER,
        show_envvar=True,
    ),
]

ServerHome = Annotated[
    Path | None,
    typer.Option(
        "--home",
        envvar="CELERIAC_HOME",
        metavar="DIRECTORY",
        help="Home whose running stack is asked; .celeriac in the current directory if not given.",
        show_default=False,
        rich_help_panel=_SERVER,
    ),
]

Limit = Annotated[
    int, typer.Option("--limit", "-n", min=1, help="How many to show, the newest first.")
]


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


_AGENT = "What its agent may do"

SessionOption = Annotated[
    str | None,
    typer.Option(
        "--session",
        metavar="ID",
        help="Go on with the session of an earlier execution.",
        rich_help_panel=_AGENT,
    ),
    IdOf("sessions", "a session"),
]
Fork = Annotated[
    bool,
    typer.Option(
        "--fork",
        help="With --session: go on with a copy, and leave it as it is.",
        rich_help_panel=_AGENT,
    ),
]
BudgetCost = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="DOLLARS",
        help="What its model calls may cost, instead of the task's budget.",
        rich_help_panel=_AGENT,
    ),
]
BudgetTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="COUNT",
        help="The tokens that its model calls may use, instead of the task's budget.",
        rich_help_panel=_AGENT,
    ),
]
AskBeyond = Annotated[
    bool,
    typer.Option(
        "--ask",
        help="Ask a person when this budget is spent; else it fails then.",
        rich_help_panel=_AGENT,
    ),
]
Record = Annotated[
    bool,
    typer.Option("--record", help="Save its model traffic as a cassette.", rich_help_panel=_AGENT),
]


def run_options(
    *,
    priority: str | None,
    queue: str | None,
    session: str | None,
    fork: bool,
    cost: float | None,
    tokens: int | None,
    ask: bool,
    record: bool,
) -> "ExecutionOptions":
    """Return what the options ask for; raises UsageProblemError where they don't go together."""
    if fork and session is None:
        raise UsageProblemError("--fork needs --session, the session to go on with a copy of.")
    if ask and cost is None and tokens is None:
        raise UsageProblemError("--ask goes with --budget-cost or --budget-tokens.")
    budget: dict[str, object] | None = None
    if cost is not None or tokens is not None:
        budget = {"on_budget": "ask" if ask else "stop"}
        budget |= {} if cost is None else {"max_cost": str(cost)}
        budget |= {} if tokens is None else {"max_tokens": tokens}
    return {
        "priority": priority,
        "queue": queue,
        "session_id": session,
        "fork_session": fork,
        "budget": budget,
        "record": record,
    }
