"""Following a run to its end: a live tree on a terminal, else plain lines."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from celeriac.cli.core.ids import short_id
from celeriac.cli.core.output import CommandError, ExitCode, clock, plain
from celeriac.cli.executions.view import describe
from celeriac.cli.workflows.tree import head_text, open_questions, tree
from celeriac.domain.executions.events import EventType
from celeriac.domain.workflows.states import Compensation, RunStatus

if TYPE_CHECKING:
    from celeriac.cli.core.context import CommandContext
    from celeriac.wire import Event, ItemEnded, Run

_REFRESH_SECONDS = 1.0
"""How often the live view reads the run: the numbers of items change without events."""


def follow_run(
    context: "CommandContext",
    run_id: UUID | str,
    *,
    timeout: float | None,
    items: bool = False,
) -> "Run":
    """Show the progress of a run on stderr, and return it when it has ended.

    With `items` each end of an item is a line, also on a terminal, which has no tree then. With
    `--json` nothing is shown. Raises ClientError, also if it hasn't ended after `timeout` seconds,
    and CommandError after Ctrl-C, which does not stop the run.
    """
    from celeriac.client import Delta

    runs = context.client.workflow_runs
    stream = runs.stream(run_id, items=items, timeout=timeout, on_away=context.say_away)
    try:
        if context.output.err.is_terminal and not context.output.as_json and not items:
            with _tree_of(context, run_id):
                for _ in stream:
                    pass
        else:
            for each in stream:
                if not isinstance(each, Delta):
                    context.output.say(_line(each))
    except KeyboardInterrupt as error:
        raise CommandError(
            f"Stopped following; the run {run_id} continues.",
            cure=f"`celeriac workflow-runs follow {short_id(run_id)}` follows it again, "
            f"`celeriac workflow-runs cancel {short_id(run_id)}` ends it.",
            exit_code=ExitCode.INTERRUPTED,
            problem="interrupted",
        ) from error
    return runs.get(run_id)


def _line(each: "Event | ItemEnded") -> str:
    from celeriac.wire import ItemEnded

    return item_line(each) if isinstance(each, ItemEnded) else event_line(each)


def item_line(end: "ItemEnded") -> str:
    """Return the end of an item as a plain line."""
    which = f" · execution {end.execution_id}" if end.execution_id else ""
    if end.child_run_id:
        which = f" · run {end.child_run_id}"
    return f"{'':12} {end.step}[{end.index}] {end.status}{which}"


_OF_QUESTIONS = (EventType.APPROVAL_ASKED, EventType.APPROVAL_ANSWERED)


def event_line(event: "Event") -> str:
    """Return an event of a run as a plain line."""
    if event.type in _OF_QUESTIONS:
        facts = f"step {event.data.get('step')} · {describe(event)}"
    else:
        known = event.data.items()
        facts = " · ".join(f"{name} {value}" for name, value in known if value is not None)
    return f"{clock(event.at)} {event.seq:>3} {event.type.value:<16} {facts}".rstrip()


@contextmanager
def _tree_of(context: "CommandContext", run_id: UUID | str) -> Iterator[None]:
    """Draw the run's tree until the block ends."""
    from rich.live import Live

    from celeriac.client import ClientError

    end = threading.Event()

    def draw(live: Live) -> None:
        try:
            run = context.client.workflow_runs.get(run_id)
            live.update(tree(run, open_questions(context, run)), refresh=True)
        except ClientError:
            return  # the stream says so

    def repeat(live: Live) -> None:
        while not end.wait(_REFRESH_SECONDS):
            draw(live)

    with Live(console=context.output.err, auto_refresh=False) as live:
        draw(live)
        thread = threading.Thread(target=repeat, args=(live,), name="tree", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()
            draw(live)


def show_run_outcome(context: "CommandContext", run: "Run") -> None:
    """Write the result to stdout and a summary to stderr.

    Raises CommandError if the run didn't complete.
    """
    context.output.json(run)
    if run.status is RunStatus.COMPLETED:
        if not context.output.as_json:
            context.output.raw(plain(run.result))
            context.output.say(head_text(run))
        return
    if run.status is RunStatus.CANCELLED:
        who = f" by {run.cancel_requested_by}" if run.cancel_requested_by else ""
        message = run.error_message or f"The run was cancelled{who}."
    else:
        message = run.error_message or f"The run has {run.status.value}."
    cure = f"`celeriac workflow-runs show {short_id(run.id)}` shows what happened."
    if run.compensation is Compensation.COMPENSATION_FAILED:
        cure = (
            f"{cure} Undo tasks have failed; `celeriac workflow-runs retry {short_id(run.id)} "
            "--compensation` runs these again."
        )
    raise CommandError(
        message,
        cure=cure,
        problem=run.error_code or run.status.value,
    )
