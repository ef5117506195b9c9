"""`celeriac executions`: runs of tasks."""

from datetime import datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from celeriac.cli.exits import CommandError, ExitCode
from celeriac.cli.failures import failure_text, own_frames
from celeriac.cli.files import Into, Overwrite, Paths, fetch_files, show_files
from celeriac.cli.follow.following import event_line, follow, overshoot, show_outcome, summary
from celeriac.cli.formatting import duration, moment, money, plain, short, tokens
from celeriac.cli.ids import ExecutionId, short_id
from celeriac.cli.options import Limit
from celeriac.cli.session import Session, connected
from celeriac.domain.states import Status, WaitingFor

if TYPE_CHECKING:
    from celeriac.wire import Execution, ExecutionSummary

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
    waiting_for: Annotated[
        WaitingFor | None, typer.Option(help="Only those that wait for this.")
    ] = None,
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
      celeriac executions list --waiting-for approval
      celeriac executions list --batch ID --json --include result
    """
    pages = session.client.executions.list(
        status=[each.value for each in status] or None,
        waiting_for=waiting_for.value if waiting_for else None,
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
        ("ID", "TASK", "STATUS", "ATTEMPT", "CREATED", "RAN", "TOKENS", "NOTE"),
        (
            (
                str(each.id),
                each.task_name,
                each.status.value,
                str(each.attempt),
                moment(each.created_at),
                duration(each.duration_seconds),
                tokens(each.input_tokens, each.output_tokens),
                short(note(each), _SHORT),
            )
            for each in found
        ),
        cut=("TASK", "NOTE"),
        drop=("TOKENS", "ATTEMPT", "RAN", "CREATED"),
    )


@connected
def show(session: Session, execution: ExecutionId) -> None:
    """Show everything about an execution."""
    found = session.client.executions.get(execution)
    if session.output.as_json:
        session.output.json(found)
    else:
        session.output.fields(_facts(found, overshoot(session, found)))


@connected
def result(session: Session, execution: ExecutionId) -> None:
    """Print the result of a completed execution, and nothing else.

    Exits with 1 where it hasn't completed.
    """
    found = session.client.executions.get(execution)
    if found.status is not Status.COMPLETED:
        following = f"`celeriac monitor {short_id(execution)}` waits for it."
        raise CommandError(
            f"The execution is {found.status.value}; it has no result.",
            cure=None if found.status.terminal else following,
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
    """End an execution. What waits ends at once, what runs within seconds.

    Exits with 6 where it had ended already: nothing was cancelled then.

    Examples:
      celeriac executions cancel last
    """
    before = session.client.executions.get(execution)
    found = session.client.executions.cancel(execution)
    if session.output.as_json:
        session.output.json(found)
    # it may end by itself in between
    if before.status.terminal or found.status in {Status.COMPLETED, Status.FAILED}:
        raise CommandError(
            f"The execution had ended already: it is {found.status.value}.",
            cure=f"`celeriac executions show {short_id(execution)}` shows how.",
            exit_code=ExitCode.ENDED_ALREADY,
            problem="ended_already",
        )
    if session.output.as_json:
        return
    if found.status.terminal:
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


def note(execution: "ExecutionSummary") -> str:
    """Return what an execution waits for, or how it failed."""
    if execution.waiting_for is None:
        return _error(execution)
    until = f", until {moment(execution.waiting_until)}" if execution.waiting_until else ""
    return f"waits for {execution.waiting_for.value.replace('_', ' ')}{until}"


def _error(execution: "ExecutionSummary") -> str:
    code = execution.error_code
    if not code:
        return ""
    return f"{code}: {failure_text(code, execution.error_message, execution.error_type)}"


def _facts(execution: "Execution", beyond: str) -> dict[str, str]:
    error = execution.error_details or {}
    facts = {
        "id": str(execution.id),
        "task": execution.task_name,
        "status": execution.status.value,
        "waits for": note(execution).removeprefix("waits for ")
        if execution.waiting_for is not None
        else "",
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
        "overshoot": beyond,
        "cancelled by": execution.cancel_requested_by or "",
        "repeats": str(execution.origin_id or ""),
        "batch": str(execution.batch_id or ""),
        "session": str(execution.session_id or ""),
        "Celery task": execution.celery_task_id or "",
        "request": execution.request_id or "",
        "error": _error(execution),
        "traceback": own_frames(str(error.get("traceback") or "")).rstrip(),
        "variables": plain(execution.variables),
        "cut off": "yes, by the model's token limit" if execution.truncated else "",
        "result": "" if execution.result is None else plain(execution.result),
    }
    return {name: value for name, value in facts.items() if value}
