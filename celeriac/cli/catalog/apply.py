"""`celeriac apply`: agents, tasks and what starts them, from files."""

import difflib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from celeriac.cli.core.arguments import STDIN
from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.output import CommandError, ExitCode, UsageProblemError

if TYPE_CHECKING:
    from celeriac import wire
    from celeriac.client.documents import Document

_MAX_WIDTH = 100
_MARKS = {"create": "+", "change": "~", "unchanged": " "}


@open_client
def apply(
    context: CommandContext,
    *,
    files: Annotated[
        list[str],
        typer.Option("--file", "-f", metavar="FILE", help="YAML or JSON; - for stdin. Repeatable."),
    ] = [],  # noqa: B006 - Typer copies it
    modules: Annotated[
        list[str],
        typer.Option(
            "--module",
            "-m",
            metavar="MODULE",
            help="A Python module with @celeriac.agent functions. Repeatable.",
        ),
    ] = [],  # noqa: B006
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the changes; write nothing.")
    ] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="With --dry-run: exit with 1 if anything differs.")
    ] = False,
) -> None:
    """Create or change agents, tasks and what starts them, as files or modules say.

    A file has agents, tasks, budgets, workflows, limits, schedules and hooks.

    Nothing is deleted, and resources that are not named stay as they are. All
    files are checked first and applied together or not at all. Applied again,
    they change nothing. Of what is created, all fields are shown with --dry-run
    only. docs/apply.md describes the files.

    --module imports the module on this machine. For each function that is
    decorated with @celeriac.agent it creates an agent and a task of that name.
    The task's variables schema comes from the type hints, descriptions from the
    docstring; other fields of existing agents and tasks stay. A file overrides
    a module.

    Examples:
      celeriac apply -m shop
      celeriac apply -f project.yaml
      celeriac apply -f project.yaml --dry-run
      celeriac apply -f agents.yaml -f tasks.yaml --dry-run --exit-code
      jsonnet project.jsonnet | celeriac apply -f -
    """
    if not files and not modules:
        raise UsageProblemError(
            "There is nothing to apply.", cure="Name a file with -f or a module with -m."
        )
    if exit_code and not dry_run:
        raise UsageProblemError("--exit-code goes with --dry-run.")
    document = _document(context, files, modules)
    applied = _send(context, document, dry_run=dry_run)
    context.output.write(applied, "\n".join(_shown(applied)))
    if exit_code and applied.created + applied.changed:
        raise typer.Exit(ExitCode.FAILED)


def _document(context: CommandContext, files: Sequence[str], modules: Sequence[str]) -> "Document":
    from celeriac.cli.catalog import functions
    from celeriac.client.documents import Document

    given = _read(files) if files else Document({})
    if not modules:
        return given
    found = [function for module in modules for function in functions.functions_in(module)]
    made = functions.document_of(context.client, found)
    for module in functions.unlisted(modules):
        context.output.say(
            f"note: workers import {module} only if {functions.MODULES} lists it; here it does not."
        )
    return Document.joined([given, functions.without(made, given)])


def _read(files: Sequence[str]) -> "Document":
    from celeriac.client.documents import MAX_CHARACTERS, Document, DocumentError

    if files.count(STDIN) > 1:
        raise UsageProblemError("Standard input (-) can be read once only.")
    try:
        return Document.joined(
            [
                Document.parse(sys.stdin.read(MAX_CHARACTERS + 1), "(standard input)")
                if file == STDIN
                else Document.read(Path(file))
                for file in files
            ]
        )
    except DocumentError as error:
        raise CommandError(
            f"Nothing was changed.\n{error.message}", exit_code=ExitCode.USAGE, problem=error.code
        ) from error


def _send(context: CommandContext, document: "Document", *, dry_run: bool) -> "wire.Applied":
    from celeriac.client import ClientError

    try:
        return context.client.apply(document, dry_run=dry_run)
    except ClientError as error:
        # its message has the fields already, with their places
        raise ClientError(error.message, code=error.code, status=error.status) from error


def _shown(applied: "wire.Applied") -> Iterator[str]:
    for item in applied.items:
        mark = _MARKS[item.action]
        version = f" · version {item.version}" if item.version else ""
        yield f"{mark} {item.kind} {item.name}{version}"
        created = item.action == "create"
        # what a new one is stands in its file, and is only of interest before it is made
        if applied.dry_run or not created:
            for change in item.changes:
                yield from _change(change, created=created)
        yield from (f"    warning: {warning}" for warning in item.warnings)
    yield _summary(applied)


def _change(change: "wire.FieldChange", *, created: bool) -> Iterator[str]:
    texts = (change.before, change.after)
    if any(isinstance(text, str) and ("\n" in text or len(text) > _MAX_WIDTH) for text in texts):
        yield f"    {change.field}:"
        before, after = (text.splitlines() if isinstance(text, str) else [] for text in texts)
        for line in [*difflib.unified_diff(before, after, lineterm="", n=2)][2:]:
            yield f"      {line}"
    elif created:
        yield f"    {change.field}: {_value(change.after)}"
    else:
        yield f"    {change.field}: {_value(change.before)} → {_value(change.after)}"


def _value(value: Any) -> str:
    if value is None:
        return "not set"
    return json.dumps(value, ensure_ascii=False)


def _summary(applied: "wire.Applied") -> str:
    if not applied.created + applied.changed:
        return f"Nothing to do: {applied.unchanged} unchanged."
    counts = f"{applied.created} to create, {applied.changed} to change"
    if not applied.dry_run:
        counts = f"{applied.created} created, {applied.changed} changed"
    end = " Nothing was written: this was a dry run." if applied.dry_run else ""
    return f"{counts}, {applied.unchanged} unchanged.{end}"
