"""`celeriac sessions`: conversations that later runs can go on with."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.output import moment, short
from celeriac.cli.executions import Into, Overwrite, Paths, fetch_files, show_files
from celeriac.cli.ids import ExecutionOption, SessionId
from celeriac.domain.sessions import SessionStatus

if TYPE_CHECKING:
    from celeriac import wire

_SHORT = 60


def build_app() -> typer.Typer:
    """Return the group `sessions`."""
    app = typer.Typer(
        name="sessions", help="Conversations of executions: look at them, take their files."
    )
    app.command("list")(list_sessions)
    for command in (show, files, download, delete):
        app.command()(command)
    return app


@open_client
def list_sessions(
    session: CommandContext,
    *,
    limit: Limit = 20,
    execution: ExecutionOption = None,
    runner: Annotated[
        str | None, typer.Option(help="Only of this kind of agent: llm, claude and so on.")
    ] = None,
    status: Annotated[
        SessionStatus | None, typer.Option("--status", "-s", help="Only those that stand so.")
    ] = None,
) -> None:
    """List sessions, the newest first.

    Examples:
      celeriac sessions list --status failed
      celeriac run review --session 0199f3a2-…
    """
    pages = session.client.sessions.list(execution_id=execution, runner=runner, status=status)
    found = list(islice(pages, limit))
    if session.output.as_json:
        session.output.json(found)
        return
    session.output.table(
        ("ID", "RUNNER", "STATUS", "EXECUTION", "CREATED", "CHANGED", "ERROR"),
        (
            (
                str(each.id),
                each.runner,
                each.status.value,
                str(each.execution_id),
                moment(each.created_at),
                moment(each.updated_at),
                short(each.error_code or "", _SHORT),
            )
            for each in found
        ),
        cut=("ERROR",),
        drop=("CHANGED", "EXECUTION", "CREATED"),
    )


@open_client
def show(session: CommandContext, session_id: SessionId) -> None:
    """Show everything about a session."""
    found = session.client.sessions.get(session_id)
    if session.output.as_json:
        session.output.json(found)
    else:
        session.output.fields(_facts(found))


@open_client
def files(session: CommandContext, session_id: SessionId) -> None:
    """List the files that its agent works on."""
    show_files(session, session.client.sessions.files(session_id))


@open_client
def download(
    session: CommandContext,
    session_id: SessionId,
    paths: Paths = [],  # noqa: B006 - Typer copies it
    to: Into = Path(),
    overwrite: Overwrite = False,
) -> None:
    """Download files of a session, all or those that are named.

    Examples:
      celeriac sessions download 0199f3a2-… --to review
      celeriac sessions download 0199f3a2-… notes/summary.md
    """
    fetch_files(session, session.client.sessions.files(session_id), paths, to, overwrite=overwrite)


@open_client
def delete(session: CommandContext, session_id: SessionId) -> None:
    """Remove its files and what is needed to go on with it; there is no way back.

    Not possible while an execution works in it or waits to.
    """
    session.client.sessions.delete(session_id)
    if session.output.as_json:
        session.output.json({"id": str(session_id), "status": SessionStatus.DELETED.value})
    else:
        session.output.raw(f"deleted · {session_id}")


def _facts(found: "wire.Session") -> dict[str, str]:
    facts = {
        "id": str(found.id),
        "status": found.status.value,
        "runner": found.runner,
        "begun by": str(found.execution_id),
        "forked from": str(found.parent_id or ""),
        "id in its SDK": found.external_id or "",
        "created": moment(found.created_at),
        "changed": moment(found.updated_at),
        "error": f"{found.error_code}: {found.error_message}" if found.error_code else "",
    }
    return {name: value for name, value in facts.items() if value}
