"""The `celeriac` command: all commands, and exit codes for errors."""

import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from celeriac.cli import (
    accounts,
    approvals,
    budgets,
    bulk_jobs,
    cassettes,
    crews,
    database,
    failures,
    hooks,
    invitations,
    limits,
    models,
    pauses,
    saved_views,
    schedules,
    secrets,
    sessions,
    webhooks,
    workspaces,
)
from celeriac.cli.budgets import prices, usage
from celeriac.cli.catalog import agents, tasks
from celeriac.cli.catalog.apply import apply
from celeriac.cli.core.output import ErrorReport, ExitCode, exit_code_of, report_of
from celeriac.cli.demo.command import demo
from celeriac.cli.doctor.command import doctor
from celeriac.cli.executions.commands import app as executions_app
from celeriac.cli.executions.run import run as run_task
from celeriac.cli.executions.timeline import timeline
from celeriac.cli.logs import logs
from celeriac.cli.maintenance import maintenance
from celeriac.cli.pod_costs import pod_costs
from celeriac.cli.programs import api, beat, mcp, worker
from celeriac.cli.sitrep import UNKNOWN, sitrep
from celeriac.cli.statistics import stats
from celeriac.cli.up import up
from celeriac.cli.why import why
from celeriac.cli.work import monitor
from celeriac.cli.workflows.commands import app as workflows_app
from celeriac.cli.workflows.runs import app as workflow_runs_app
from celeriac.domain.errors import CeleriacError
from celeriac.kit.first_process import divide_first_process
from celeriac.kit.text import printable
from celeriac.version import __version__

_PROGRAM = "celeriac"
_UNKNOWN_COMMAND = re.compile(r"No such command '([\w-]+)'")
_SYNONYMS = {
    "change": ("update", "set"),
    "update": ("change", "set"),
    "edit": ("update", "change"),
    "add": ("create",),
    "new": ("create",),
    "get": ("show",),
    "remove": ("delete",),
    "rm": ("delete",),
    "ls": ("list",),
    "start": ("up", "run"),
    "stop": ("cancel",),
    "status": ("sitrep",),
    "approve": ("answer",),
    "deny": ("answer",),
}
"""Names of commands that are there under another one."""
_VALIDATOR = "Value error, "
"""What the library that reads values puts before its message."""
_START = "Start Celeriac"
_WORK = "Run tasks and follow them"
_MANAGE = "Manage"
_SITREP = "sitrep"
_SETTINGS = {"help_option_names": ["-h", "--help"]}
_CELERY_SETTINGS = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    # not -h, which is also found in options for Celery such as -nhost; the commands check for it
    "help_option_names": ["--help"],
}


@dataclass(slots=True)
class _GlobalOptions:
    """Values of the options before the command's name, and that name."""

    debug: bool = False
    command: str | None = None


def run() -> None:
    """Run the command line of this process; the entry point of `celeriac`."""
    divide_first_process()
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Errors are written to stderr, not raised."""
    given = _GlobalOptions()
    command = build_command(given)
    try:
        code = command(list(arguments), prog_name=_PROGRAM, standalone_mode=False)
    except CeleriacError as error:
        return _report(report_of(error), exit_code_of(error), given)
    except TyperException as error:
        # without a message the help was shown instead
        message = error.format_message().replace(_VALIDATOR, "")
        report = ErrorReport(message, cure=_usage_hint(error)) if message else None
        return _report(report, error.exit_code, given)
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - people get one line, not a traceback
        message = f"{type(error).__name__}: {error}"
        cure = f"This is a defect. `{_PROGRAM} --debug …` shows where it happened."
        return _report(ErrorReport(message, "unexpected", cure), ExitCode.FAILED, given)
    return code if isinstance(code, int) else ExitCode.OK


def build_app(given: _GlobalOptions | None = None) -> typer.Typer:
    """Return the command line with all its commands."""
    app = typer.Typer(
        name=_PROGRAM,
        help="Background execution for AI agents on Celery, with PostgreSQL as the truth.",
        epilog=_START_HERE,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings=_SETTINGS,
    )
    _add_root(app, given or _GlobalOptions())
    for command in (up, demo, api, mcp):
        app.command(rich_help_panel=_START)(command)
    for runner in (worker, beat):
        app.command(rich_help_panel=_START, context_settings=_CELERY_SETTINGS)(runner)
    app.command(rich_help_panel=_START)(doctor)
    app.command(name="run", rich_help_panel=_WORK)(run_task)
    for viewer in (sitrep, monitor, why, timeline, logs, stats, usage, prices):
        app.command(rich_help_panel=_WORK)(viewer)
    for manager in (apply, pauses.pause, pauses.resume, maintenance, pod_costs):
        app.command(rich_help_panel=_MANAGE)(manager)
    for group in _GROUPS:
        app.add_typer(group, rich_help_panel=_MANAGE)
    return app


def build_command(given: _GlobalOptions | None = None) -> Any:
    """Return the command line with plain help for flags."""
    command = typer.main.get_command(build_app(given))
    _simplify_flags(command)
    return command


def _simplify_flags(command: Any, parent: typer.Context | None = None) -> None:
    """Remove the `<bool>` that Typer shows behind flags, which take no value."""
    # the help option is created here, with the names that the context has or inherits
    context = typer.Context(command, parent=parent, **command.context_settings)
    for parameter in (*command.params, command.get_help_option(context)):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    for inner in getattr(command, "commands", {}).values():
        _simplify_flags(inner, context)


tasks.app.command(name="run")(run_task)

_GROUPS = (
    tasks.app,
    agents.app,
    workflows_app,
    crews.app,
    models.app,
    executions_app,
    bulk_jobs.app,
    saved_views.app,
    secrets.app,
    failures.app,
    workflow_runs_app,
    schedules.app,
    limits.app,
    pauses.app,
    approvals.app,
    budgets.app,
    sessions.app,
    cassettes.app,
    webhooks.app,
    webhooks.deliveries_app,
    hooks.app,
    workspaces.app,
    invitations.app,
    accounts.keys_app,
    accounts.users_app,
    accounts.audit_app,
    database.app,
)


_START_HERE = """New here? Try these, in this order:
  celeriac demo      a demonstration of a minute, on your machine alone
  celeriac up        servers, a small model, API, worker and keeper
  celeriac doctor    checks what works, and how to fix what doesn't

Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 not found,
4 not allowed, 5 a server is unavailable, 6 had ended already, 130 interrupted."""


def _add_root(app: typer.Typer, given: _GlobalOptions) -> None:
    """Add the options that stand before the command's name."""

    @app.callback()
    def root(
        context: typer.Context,
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
        given.debug = debug
        given.command = context.invoked_subcommand


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{_PROGRAM} {__version__}")
        raise typer.Exit


def _report(report: ErrorReport | None, code: int, given: _GlobalOptions) -> int:
    """Write an error to stderr; called while the exception is handled."""
    if report is not None:
        if given.debug:
            traceback.print_exc()
        for line in report.lines():
            typer.echo(printable(line), err=True)
    # its codes 1 and 2 are levels: a wrong call must not raise an alert
    return UNKNOWN if given.command == _SITREP else int(code)


def _usage_hint(error: TyperException) -> str | None:
    """Return where help is: of a command that means the same, or is of that name elsewhere."""
    context = getattr(error, "ctx", None)
    if context is None:
        return None
    if context.command.name == "apply" and "unexpected extra" in error.format_message():
        return "Files are named with -f: `celeriac apply -f FILE`."
    named = _UNKNOWN_COMMAND.search(error.format_message())
    if named:
        here = getattr(context.command, "commands", {})
        for other in _SYNONYMS.get(named[1], ()):
            if other in here:
                return f"`{context.command_path} {other} --help` shows how."
        if named[1] in getattr(context.find_root().command, "commands", {}):
            return f"`{_PROGRAM} {named[1]} --help` shows how: it is a command of its own."
    return f"`{context.command_path} --help` shows how."
