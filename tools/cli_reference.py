"""Write docs/cli.md and docs/workflow.schema.json from what they describe: `make docs`."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import typer

from celeriac.cli.core.output import ExitCode
from celeriac.cli.main import build_app
from celeriac.domain.workflows.json_schema import document_schema

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
SCHEMA = PAGE.with_name("workflow.schema.json")

_ONE_NEWLINE = re.compile(r"(?<!\n)\n(?!\n)")

_INTRODUCTION = """\
# The command line

`celeriac` starts the system, runs tasks and follows them. `celeriac COMMAND --help` shows what is
here, for one command; `python -m celeriac` is the same program. This page is written by
`make docs`.

## Which server

Commands that call the API find it by `--api-url` and `--api-key`, else by `CELERIAC_API_URL` and
`CELERIAC_API_KEY`, else by the stack that `celeriac up` runs in the home (`--home`,
`CELERIAC_HOME`, or `.celeriac` in the current directory). The key of the home is sent only to the
server of the home.

`api`, `worker`, `beat` and `db` need no API. They read `DATABASE_URL`, `REDIS_URL`,
`CELERY_BROKER_URL` and `CELERY_RESULT_BACKEND`; where these are not set, they use the servers of
the stack that runs in the home.

## Output

Answers go to standard output, everything else to standard error. With `--json` the answer is one
JSON value. An error is one line, `error: MESSAGE [CODE]`, followed by its cure. The code is one of
the API (docs/api.md) or of the command line. `celeriac --debug …` adds the traceback.

Tables fit the width of the terminal: ids and names are complete, other columns are shortened or
left out, with a note on standard error. Without a terminal, tables are complete.

## Ids

An id of an execution, approval, session, cassette, API key or budget may be shortened to 6 or more
characters of its beginning or end; `last` is the newest. Ids begin with the time of their creation
and differ in their end: hints show the last 12 characters. Short ids are searched among the newest
500 that you may see, in at most five requests; older ones need the whole id. An ambiguous short id
is refused, with a list of the matches.

## Completion

`celeriac --install-completion` sets up completion for the shell that you use;
`celeriac --show-completion` prints the script instead. Commands, options, names of agents and
tasks, and ids of executions, approvals and sessions are completed. Names and ids are those of the
server that `CELERIAC_API_URL` or the home in the current directory names.

## Exit codes

| code | meaning |
|---|---|
"""

_MEANINGS = {
    ExitCode.OK: "done; for `run`, `monitor` and `retry --wait`: the execution completed",
    ExitCode.FAILED: "the operation or the execution failed, or it was cancelled",
    ExitCode.USAGE: "wrong usage, wrong input or a wrong setting",
    ExitCode.NOT_FOUND: "it does not exist, or belongs to another user",
    ExitCode.DENIED: "no key, a bad key, or a key that may not do this",
    ExitCode.UNAVAILABLE: "a required server doesn't answer",
    ExitCode.ENDED_ALREADY: "`executions cancel`: the execution had ended already",
    ExitCode.INTERRUPTED: "Ctrl-C (`celeriac up` exits with 0)",
}


_OTHERS = """
`celeriac sitrep` has other codes, those of plugins of Nagios: 0 well, 1 a warning, 2 critical,
3 unknown, also with wrong usage. With any other command 2 is wrong usage or input, and 1 is what
its help says.
"""


def reference() -> str:
    """Return the whole page."""
    group = typer.main.get_group(build_app())
    codes = "".join(f"| {int(code)} | {meaning} |\n" for code, meaning in _MEANINGS.items())
    sections = [
        section for path, command in _commands(group) for section in _section(path, command)
    ]
    return "\n".join([_INTRODUCTION + codes + _OTHERS, *sections]).rstrip("\n") + "\n"


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
    """Return a parameter as a row of a table; None for help, which every command has."""
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


def json_schema() -> str:
    """Return the JSON schema of workflow documents."""
    return json.dumps(document_schema(), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the page and the schema."""
    for path, text in ((PAGE, reference()), (SCHEMA, json_schema())):
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
