"""Write docs/cli.md from the commands themselves: `make docs`."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import typer

from celeriac.cli.core.output import ExitCode
from celeriac.cli.main import build_app

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"

_ONE_NEWLINE = re.compile(r"(?<!\n)\n(?!\n)")

_INTRODUCTION = """\
# The command line

`celeriac` starts the system, runs tasks and follows them. `celeriac COMMAND --help` shows what is
here, for one command; `python -m celeriac` is the same program. This page is written by
`make docs`.

## Which server

Commands that ask a server take it from `--api-url` and `--api-key`, else from `CELERIAC_API_URL`
and `CELERIAC_API_KEY`, else from the stack that `celeriac up` runs in the home (`--home`,
`CELERIAC_HOME`, or `.celeriac` in the current directory). The home's own key is sent to the home's
own server only.

`api`, `worker`, `beat` and `db` need no API: they read `DATABASE_URL`, `REDIS_URL`,
`CELERY_BROKER_URL` and `CELERY_RESULT_BACKEND`, and where those are not set use the servers of the
stack that runs in the home.

## Output

Answers go to standard output, everything else to standard error. With `--json` the answer is one
JSON value. An error is one line, `error: MESSAGE [CODE]`, and below it what helps; the code is the
API's own (docs/api.md) or the command line's. `celeriac --debug …` adds the traceback.

Tables keep to the width of the terminal: ids and names are whole, other columns are shortened or
left out, which standard error says. Where there is no terminal nothing is.

## Ids

Where an id of an execution, approval, session, cassette, API key or budget is wanted, at least 6
characters of its beginning or end will do, and `last` is the newest. The beginning of an id is the
time at which it was made, so the end tells ids apart: hints show its last 12 characters. Short ids
are looked for among the newest 500 that you may see, in five requests at the most; older ones need
the whole id. What several have in common is refused, and lists them.

## Completion

`celeriac --install-completion` sets up completion of commands and options for the shell that you
use; `celeriac --show-completion` prints the script instead. Names and ids are not completed.

## Exit codes

| code | meaning |
|---|---|
"""

_MEANINGS = {
    ExitCode.OK: "done; for `run`, `monitor` and `retry --wait`: the execution completed",
    ExitCode.FAILED: "the operation or the execution failed, or it was cancelled",
    ExitCode.USAGE: "wrong usage, wrong input or a wrong setting",
    ExitCode.NOT_FOUND: "there is no such thing, or it is somebody else's",
    ExitCode.DENIED: "no key, a bad key, or a key that may not do this",
    ExitCode.UNAVAILABLE: "a server that is needed doesn't answer",
    ExitCode.ENDED_ALREADY: "`executions cancel`: the execution had ended already",
    ExitCode.INTERRUPTED: "Ctrl-C (`celeriac up` is meant to end so, and exits with 0)",
}


def reference() -> str:
    """Return the whole page."""
    group = typer.main.get_group(build_app())
    codes = "".join(f"| {int(code)} | {meaning} |\n" for code, meaning in _MEANINGS.items())
    sections = [
        section for path, command in _commands(group) for section in _section(path, command)
    ]
    return "\n".join([_INTRODUCTION + codes, *sections]).rstrip("\n") + "\n"


def _commands(group: Any, words: str = "celeriac") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        path = f"{words} {name}"
        yield path, command
        if hasattr(command, "commands"):
            yield from _commands(command, path)


def _section(path: str, command: Any) -> Iterator[str]:
    level = "##" if path.count(" ") == 1 else "###"
    yield f"{level} {path}\n"
    text, _, examples = dedent(command.help or "").partition("Examples:\n")
    yield _ONE_NEWLINE.sub(" ", text.strip()) + "\n"
    if examples:
        yield f"```sh\n{dedent(examples).rstrip()}\n```\n"
    rows = [row for parameter in command.params if (row := _row(parameter))]
    if rows and not hasattr(command, "commands"):
        yield "| option | meaning |\n|---|---|\n" + "\n".join(rows) + "\n"


def _row(parameter: Any) -> str | None:
    """Return a parameter as a row of a table; help has no row, every command has it."""
    if "--help" in parameter.opts:
        return None
    argument = parameter.param_type_name == "argument"
    names = parameter.metavar or parameter.name if argument else _option_names(parameter)
    notes = [parameter.help or ""]
    if parameter.required:
        notes.append("Required.")
    if parameter.envvar:
        notes.append(f"Environment: `{parameter.envvar}`.")
    meaning = " ".join(notes).replace("|", "\\|")
    return f"| `{names}` | {meaning} |"


def _option_names(parameter: Any) -> str:
    names = [*parameter.opts, *parameter.secondary_opts]
    value = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
    return ", ".join(names) + value


def main() -> None:
    """Write the page."""
    PAGE.write_text(reference(), encoding="utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
