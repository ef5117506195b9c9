"""`celeriac sessions`: conversations of executions, which later runs can continue."""

from pathlib import Path
from typing import Annotated

import typer

from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.files import Into, Overwrite, Paths, fetch_files, show_files
from celeriac.cli.core.ids import ExecutionOption, SessionId
from celeriac.cli.core.output import short
from celeriac.domain.sessions import SessionStatus

app = typer.Typer(
    name="sessions", help="Conversations of executions: list them, download their files."
)


@api_command(app, "list")
def list_sessions(
    context: CommandContext,
    *,
    limit: Limit = 20,
    execution: ExecutionOption = None,
    runner: Annotated[
        str | None, typer.Option(help="Only of this kind of agent: llm, claude and so on.")
    ] = None,
    status: Annotated[
        SessionStatus | None, typer.Option("--status", "-s", help="Only with this status.")
    ] = None,
) -> None:
    """List sessions, the newest first.

    Examples:
      celeriac sessions list --status failed
      celeriac run review --session 0199f3a2-…
    """
    context.output.write_list(
        context.client.sessions.list(execution_id=execution, runner=runner, status=status),
        ("ID", "RUNNER", "STATUS", "EXECUTION", "CREATED", "CHANGED", "ERROR"),
        lambda each: (
            each.id,
            each.runner,
            each.status,
            each.execution_id,
            each.created_at,
            each.updated_at,
            short(each.error_code or ""),
        ),
        limit=limit,
        cut=("ERROR",),
        drop=("CHANGED", "EXECUTION", "CREATED"),
    )


@api_command(app)
def show(context: CommandContext, session: SessionId) -> None:
    """Show everything about a session."""
    found = context.client.sessions.get(session)
    context.output.write_details(
        found,
        {
            "id": found.id,
            "status": found.status,
            "runner": found.runner,
            "begun by": found.execution_id,
            "forked from": found.parent_id or "",
            "id in its SDK": found.external_id or "",
            "created": found.created_at,
            "changed": found.updated_at,
            "error": f"{found.error_code}: {found.error_message}" if found.error_code else "",
        },
    )


@api_command(app)
def files(context: CommandContext, session: SessionId) -> None:
    """List the files of a session's working directory."""
    show_files(context, context.client.sessions.files(session))


@api_command(app)
def download(
    context: CommandContext,
    session: SessionId,
    paths: Paths = [],  # noqa: B006 - Typer copies it
    to: Into = Path(),
    overwrite: Overwrite = False,
) -> None:
    """Download all files of a session, or the ones that are named.

    Examples:
      celeriac sessions download 0199f3a2-… --to review
      celeriac sessions download 0199f3a2-… notes/summary.md
    """
    fetch_files(context, context.client.sessions.files(session), paths, to, overwrite=overwrite)


@api_command(app)
def delete(context: CommandContext, session: SessionId) -> None:
    """Delete the files of a session and what continues it. This can't be undone.

    Refused while an execution uses the session or waits for it.
    """
    context.client.sessions.delete(session)
    context.output.write(
        {"id": session, "status": SessionStatus.DELETED.value}, f"deleted · {session}"
    )
