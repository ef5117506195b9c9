"""The `celeriac` command: puts the commands together, and turns errors into exit codes."""

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from celeriac.cli import (
    agents,
    approvals,
    audit,
    budgets,
    cassettes,
    crews,
    database,
    executions,
    keys,
    models,
    sessions,
    tasks,
    users,
)
from celeriac.cli.apply import apply
from celeriac.cli.budgets import prices, usage
from celeriac.cli.core import context as services
from celeriac.cli.core.output import ErrorReport, ExitCode, exit_code_of, printable, report_of
from celeriac.cli.demo.command import demo
from celeriac.cli.doctor.command import doctor
from celeriac.cli.executions import timeline
from celeriac.cli.logs import logs
from celeriac.cli.mcp import mcp
from celeriac.cli.monitor import monitor
from celeriac.cli.run import run as run_task
from celeriac.cli.up import up
from celeriac.domain.errors import CeleriacError
from celeriac.version import __version__

_PROGRAM = "celeriac"
_START = "Start Celeriac"
_WORK = "Run tasks and follow them"
_MANAGE = "Manage"
_MANNERS = {"help_option_names": ["-h", "--help"]}
_PASS_ON = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    # not -h: it would be found in what is meant for Celery, as in -nhost; the commands look for it
    "help_option_names": ["--help"],
}


@dataclass(slots=True)
class _ErrorHandling:
    """What the options before the command's name ask for."""

    debug: bool = False


def run() -> None:
    """Run the command line of this process; the entry point of `celeriac`."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code. Errors are told on stderr, never raised."""
    manner = _ErrorHandling()
    command = build_command(manner)
    try:
        code = command(list(arguments), prog_name=_PROGRAM, standalone_mode=False)
    except CeleriacError as error:
        return _tell(report_of(error), exit_code_of(error), manner)
    except TyperException as error:
        # an empty one stands for the help that was shown instead
        message = error.format_message()
        report = ErrorReport(message, cure=_usage_hint(error)) if message else None
        return _tell(report, error.exit_code, manner)
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort: people get a line, not a traceback
        message = f"{type(error).__name__}: {error}"
        cure = f"This is a defect. `{_PROGRAM} --debug …` shows where it happened."
        return _tell(ErrorReport(message, "unexpected", cure), ExitCode.FAILED, manner)
    return code if isinstance(code, int) else ExitCode.OK


def build_app(manner: _ErrorHandling | None = None) -> typer.Typer:
    """Return the command line with all its commands."""
    app = typer.Typer(
        name=_PROGRAM,
        help="Background execution for AI agents on Celery, with PostgreSQL as the truth.",
        epilog=_START_HERE,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings=_MANNERS,
    )
    _add_root(app, manner or _ErrorHandling())
    for start in (up, demo, services.api, mcp):
        app.command(rich_help_panel=_START)(start)
    for hand_over in (services.worker, services.beat):
        app.command(rich_help_panel=_START, context_settings=_PASS_ON)(hand_over)
    app.command(rich_help_panel=_START)(doctor)
    app.command(name="run", rich_help_panel=_WORK)(run_task)
    for look in (monitor, timeline, logs, usage, prices):
        app.command(rich_help_panel=_WORK)(look)
    app.command(rich_help_panel=_MANAGE)(apply)
    for group in _GROUPS:
        app.add_typer(group.build_app(), rich_help_panel=_MANAGE)
    return app


def build_command(manner: _ErrorHandling | None = None) -> Any:
    """Return the command line as it is run and documented: help shows flags without a value."""
    command = typer.main.get_command(build_app(manner))
    _show_flags_plainly(command)
    return command


def _show_flags_plainly(command: Any, parent: typer.Context | None = None) -> None:
    """Leave out the `<bool>` that Typer shows behind flags, as though they took a value."""
    # the help option is made once, with the names that the context has or inherits
    context = typer.Context(command, parent=parent, **command.context_settings)
    for parameter in (*command.params, command.get_help_option(context)):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    for inner in getattr(command, "commands", {}).values():
        _show_flags_plainly(inner, context)


_GROUPS = (
    tasks,
    agents,
    crews,
    models,
    executions,
    approvals,
    budgets,
    sessions,
    cassettes,
    keys,
    users,
    audit,
    database,
)


_START_HERE = """New here? Try these, in this order:
  celeriac demo      everything at work for a minute, on your machine alone
  celeriac up        servers, a small model, API, worker and keeper
  celeriac doctor    what works, what doesn't, and what to do about it

Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 not found,
4 not allowed, 5 a server is away, 6 had ended already, 130 interrupted."""


def _add_root(app: typer.Typer, manner: _ErrorHandling) -> None:
    """Add the options that stand before the command's name."""

    @app.callback()
    def root(
        version: Annotated[
            bool,
            typer.Option(
                "--version", help="Show the version.", callback=_show_version, is_eager=True
            ),
        ] = False,
        debug: Annotated[
            bool,
            typer.Option(
                "--debug", envvar="CELERIAC_DEBUG", help="Show tracebacks: celeriac --debug run …"
            ),
        ] = False,
    ) -> None:
        del version
        manner.debug = debug


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{_PROGRAM} {__version__}")
        raise typer.Exit


def _tell(report: ErrorReport | None, code: int, manner: _ErrorHandling) -> int:
    """Write an error to stderr; called while it is being handled."""
    if report is not None:
        if manner.debug:
            traceback.print_exc()
        for line in report.lines():
            typer.echo(printable(line), err=True)
    return int(code)


def _usage_hint(error: TyperException) -> str | None:
    context = getattr(error, "ctx", None)
    return f"`{context.command_path} --help` shows how." if context else None
