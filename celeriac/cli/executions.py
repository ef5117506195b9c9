"""`celeriac executions`: runs of tasks."""

from datetime import datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from celeriac.cli.exits import CommandError
from celeriac.cli.files import Into, Overwrite, Paths, fetch_files, show_files
from celeriac.cli.follow.following import event_line, follow, show_outcome, summary
from celeriac.cli.formatting import duration, moment, money, plain, short, tokens
from celeriac.cli.monitor import ExecutionId
from celeriac.cli.options import Limit
from celeriac.cli.session import Session, connected
from celeriac.domain.states import Status

if TYPE_CHECKING:
    from celeriac.wire import Execution

_SHORT = 60


class Bulky(StrEnum):
    """What may be large of an execution."""

    VARIABLES = "variables"
    RESULT = "result"
    ERROR_DETAILS = "error_details"


def build_app() -> typer.Typer:
    """Return the group `executions`."""
    app = typer.Typer(name="executions", help="Runs of tasks: look at them, end them, repeat them.")
    app.command("list")(list_executions)
    for command in (show, result, events, report, files, download, cancel, retry):
        app.command()(command)
    return app


@connected
def list_executions(
    session: Session,
    *,
    limit: Limit = 20,
    status: Annotated[
        list[Status],
        typer.Option("--status", "-s", help="Only those that stand so; may be repeated."),
    ] = [],  # noqa: B006 - Typer copies it
    task: Annotated[str | None, typer.Option(help="Only of this task: name or id.")] = None,
    batch: Annotated[UUID | None, typer.Option(help="Only of this batch.")] = None,
    since: Annotated[
        datetime | None, typer.Option(help="Only those created since, in local time.")
    ] = None,
    include: Annotated[
        list[Bulky],
        typer.Option(help="With --json: what else to write; may be repeated."),
    ] = [],  # noqa: B006 - Typer copies it
) -> None:
    """List executions, the newest first.

    Variables, results and error details may be large: they are left out but for
    what --include names. `celeriac executions show` has all of one execution.

    Examples:
      celeriac executions list
      celeriac executions list --status failed --status cancelled --task summarise
      celeriac executions list --since 2026-11-22 --json
      celeriac executions list --batch ID --json --include result
    """
    pages = session.client.executions.list(
        status=[each.value for each in status] or None,
        task=task,
        batch_id=batch,
        created_after=since.astimezone() if since else None,
        include=[each.value for each in include] or None,
    )
    found = list(islice(pages, limit))
    if session.output.as_json:
        left_out = {each.value for each in Bulky if each not in include}
        session.output.json([each.model_dump(by_alias=True, exclude=left_out) for each in found])
        return
    session.output.table(
        ("ID", "TASK", "STATUS", "ATTEMPT", "CREATED", "RAN", "TOKENS", "ERROR"),
        (
            (
                str(each.id),
                each.task_name,
                each.status.value,
                str(each.attempt),
                moment(each.created_at),
                duration(each.duration_seconds),
                tokens(each.input_tokens, each.output_tokens),
                short(each.error_code or "", _SHORT),
            )
            for each in found
        ),
    )


@connected
def show(session: Session, execution: ExecutionId) -> None:
    """Show everything about an execution."""
    found = session.client.executions.get(execution)
    if session.output.as_json:
        session.output.json(found)
    else:
        session.output.fields(_facts(found))


@connected
def result(session: Session, execution: ExecutionId) -> None:
    """Print the result of a completed execution, and nothing else.

    Exits with 1 where it hasn't completed.
    """
    found = session.client.executions.get(execution)
    if found.status is not Status.COMPLETED:
        raise CommandError(
            f"The execution is {found.status.value}; it has no result.",
            cure=None if found.status.terminal else f"`celeriac monitor {execution}` waits for it.",
            problem=found.error_code or found.status.value,
        )
    if session.output.as_json:
        session.output.json(found.result)
    else:
        session.output.raw(plain(found.result))


@connected
def events(
    session: Session,
    execution: ExecutionId,
    after: Annotated[int, typer.Option(min=0, help="Only those numbered above it.")] = 0,
) -> None:
    """List the events of an execution, in order."""
    found = session.client.executions.events(execution, after=after)
    if session.output.as_json:
        session.output.json(list(found))
        return
    for event in found:
        session.output.raw(event_line(event))


@connected
def report(
    session: Session,
    execution: ExecutionId,
    html: Annotated[bool, typer.Option("--html", help="As a page, not as Markdown.")] = False,
) -> None:
    """Print the report of an execution that has ended.

    Examples:
      celeriac executions report 0199f3a2-… --html > report.html
    """
    text = session.client.executions.report(execution, format="html" if html else "markdown")
    if session.output.as_json:
        session.output.json({"format": "html" if html else "markdown", "report": text})
    else:
        session.output.raw(text)


@connected
def files(session: Session, execution: ExecutionId) -> None:
    """List the files that its agent left in the execution's own directory."""
    show_files(session, session.client.executions.files(execution))


@connected
def download(
    session: Session,
    execution: ExecutionId,
    paths: Paths = [],  # noqa: B006 - Typer copies it
    to: Into = Path(),
    overwrite: Overwrite = False,
) -> None:
    """Download files that its agent left, all or those that are named."""
    fetch_files(session, session.client.executions.files(execution), paths, to, overwrite=overwrite)


@connected
def cancel(session: Session, execution: ExecutionId) -> None:
    """End an execution. What waits ends at once, what runs within seconds."""
    found = session.client.executions.cancel(execution)
    if session.output.as_json:
        session.output.json(found)
    elif found.status.terminal:
        session.output.raw(summary(found))
    else:
        session.output.raw(f"asked to stop · {found.id}")


@connected
def retry(
    session: Session,
    execution: ExecutionId,
    wait: Annotated[
        bool, typer.Option("--wait/--detach", help="Follow it to its end, or print its id at once.")
    ] = False,
) -> None:
    """Run the work of an execution that has ended once more, as a new one.

    The variables are the same; task and agent are used as they are now.
    """
    accepted = session.client.executions.retry(execution)
    if wait:
        begun = session.client.executions.get(accepted.execution_id)
        show_outcome(session, follow(session, begun, timeout=None))
    elif session.output.as_json:
        session.output.json(accepted)
    else:
        session.output.raw(str(accepted.execution_id))


def _facts(execution: "Execution") -> dict[str, str]:
    error = execution.error_details or {}
    facts = {
        "id": str(execution.id),
        "task": execution.task_name,
        "status": execution.status.value,
        "trigger": execution.trigger_type.value,
        "priority": execution.priority,
        "queue": execution.queue,
        "attempt": f"{execution.attempt} ({execution.retry_count} retries, "
        f"{execution.crash_count} lost workers)",
        "worker": execution.worker_hostname or "",
        "created": moment(execution.created_at),
        "started": moment(execution.started_at),
        "completed": moment(execution.completed_at),
        "ran": duration(execution.duration_seconds),
        "tokens": tokens(execution.input_tokens, execution.output_tokens),
        "cost": money(execution.cost) if execution.cost else "",
        "cancelled by": execution.cancel_requested_by or "",
        "repeats": str(execution.origin_id or ""),
        "batch": str(execution.batch_id or ""),
        "session": str(execution.session_id or ""),
        "Celery task": execution.celery_task_id or "",
        "request": execution.request_id or "",
        "error": f"{execution.error_code}: {execution.error_message}"
        if execution.error_code
        else "",
        "traceback": str(error.get("traceback") or ""),
        "variables": plain(execution.variables),
        "result": "" if execution.result is None else plain(execution.result),
    }
    return {name: value for name, value in facts.items() if value}
