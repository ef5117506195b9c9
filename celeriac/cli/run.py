"""`celeriac run`: one execution or a batch."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from celeriac.cli.cassettes import RecordTo, Replay, cassette_id, check_recording, save_recording
from celeriac.cli.core.arguments import (
    AskBeyond,
    BudgetCost,
    BudgetTokens,
    Fork,
    Record,
    SessionOption,
    gather,
    parse_object,
    read_text,
    run_options,
)
from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.output import CommandError, ExitCode, UsageProblemError
from celeriac.cli.follow.following import follow, show_outcome
from celeriac.cli.ids import short_id
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac.client.executions import ExecutionOptions
    from celeriac.wire import Execution, Worker


SUFFIX = ".jsonl"
_ALLOWED = frozenset({"priority", "queue"})


def is_batch(files: Sequence[str]) -> bool:
    """Return whether one of the files holds many items: JSON lines."""
    return any(file.endswith(SUFFIX) for file in files)


def items_of(files: Sequence[str], shared: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the variables of each execution: one JSON object a line of the files of JSON lines.

    `shared` variables are part of each item and win. Raises UsageProblemError naming the line.
    """
    items = [{**item, **shared} for file in files for item in _lines(file)]
    if not items:
        raise UsageProblemError(f"There are no items in {', '.join(files)}.")
    return items


def _lines(file: str) -> Iterator[dict[str, Any]]:
    # not splitlines: JSON may hold other line ends, such as U+2028, in its texts
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            yield parse_object(line, f"{file}, line {number}")


def run_batch(
    session: CommandContext,
    task: str,
    items: Sequence[Mapping[str, Any]],
    options: "ExecutionOptions",
    *,
    delay: float | None,
    key: str | None,
    others: Sequence[str],
) -> None:
    """Run the task once for each item, and print the executions' ids in the items' order.

    `others` are options that were given and mean something for one run only; they, and run_options
    beyond priority and queue, are a UsageProblemError.
    """
    given = {name: value for name, value in options.items() if value and name not in _ALLOWED}
    if given or others:
        names = ", ".join([*others, *sorted(given)])
        raise UsageProblemError(
            f"A batch takes --priority, --queue, --delay and --idempotency-key only; not {names}."
        )
    accepted = session.client.executions.execute_batch(
        task,
        items,
        priority=options.get("priority"),
        queue=options.get("queue"),
        delay_seconds=delay,
        idempotency_key=key,
    )
    if session.output.as_json:
        session.output.json(accepted)
        return
    for execution_id in accepted.execution_ids:
        session.output.raw(str(execution_id))
    session.output.say(
        f"{counted(accepted.count, 'execution')}; "
        f"`celeriac executions list --batch {accepted.batch_id}` lists them, "
        f"`celeriac monitor {short_id(accepted.execution_ids[-1])}` follows the last."
    )


_HOW = "How it runs"

Timeout = Annotated[
    float | None,
    typer.Option(min=0, help="Wait so many seconds at most; the execution goes on after that."),
]


@open_client
def run(
    session: CommandContext,
    *,
    task: Annotated[str, typer.Argument(help="The task's name or id.", metavar="TASK")],
    var: Annotated[
        list[str],
        typer.Option("--var", "-v", metavar="NAME=TEXT", help="A variable; NAME:=JSON for JSON."),
    ] = [],  # noqa: B006 - Typer copies it
    vars_file: Annotated[
        list[str],
        typer.Option(
            metavar="FILE",
            help="A JSON object of variables; - for stdin. A .jsonl file is a batch of them.",
        ),
    ] = [],  # noqa: B006
    input_: Annotated[
        list[str],
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=FILE",
            help="A file's text as a variable; FILE alone, or -, holds a JSON object of variables.",
        ),
    ] = [],  # noqa: B006
    wait: Annotated[
        bool, typer.Option("--wait/--detach", help="Follow it to its end, or print its id at once.")
    ] = True,
    sync: Annotated[
        bool,
        typer.Option(
            "--sync", help="One request that is answered at the end.", rich_help_panel=_HOW
        ),
    ] = False,
    timeout: Timeout = None,
    priority: Annotated[
        str | None,
        typer.Option(help="low, normal, high or critical; the task's.", rich_help_panel=_HOW),
    ] = None,
    queue: Annotated[
        str | None, typer.Option(help="Another queue than the task's.", rich_help_panel=_HOW)
    ] = None,
    delay: Annotated[
        float | None,
        typer.Option(min=0, help="Start it so many seconds from now.", rich_help_panel=_HOW),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key",
            help="Your own word for this run; the same word again starts nothing anew.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    from_session: SessionOption = None,
    fork: Fork = False,
    budget_cost: BudgetCost = None,
    budget_tokens: BudgetTokens = None,
    ask: AskBeyond = False,
    record: Record = False,
    record_to: RecordTo = None,
    replay: Replay = None,
) -> None:
    """Run a task, follow it, and print its result.

    The result goes to stdout, everything else to stderr. Ctrl-C ends the
    following, not the execution. Exits with 0 where it completed, else with 1.

    With a --vars-file whose name ends with .jsonl the task is run once for each
    line, all or none; the ids are printed in the order of the lines, and nothing
    is followed. Other variables are part of each item.

    Examples:
      celeriac run summarise --var text="Celeriac is a root vegetable."
      celeriac run summarise --input text=article.txt
      cat article.txt | celeriac run summarise --input text=-
      celeriac run score --var lead:='{"id": 7}' --var limit:=10 --json
      celeriac run nightly --vars-file night.json --detach
      celeriac run score --vars-file leads.jsonl --var limit:=10
      celeriac run review --session 0199f3a2-… --fork --budget-cost 0.50
      celeriac run qualify --var lead=ACME --record-to qualify.jsonl
      celeriac run qualify --var lead=ACME --replay qualify.jsonl
    """
    lines = [each for each in vars_file if is_batch([each])]
    variables = gather(var, [each for each in vars_file if each not in lines], input_)
    options = run_options(
        priority=priority,
        queue=queue,
        session=from_session,
        fork=fork,
        cost=budget_cost,
        tokens=budget_tokens,
        ask=ask,
        record=record or record_to is not None,
    )
    if lines:
        single = {
            "--sync": sync,
            "--timeout": timeout,
            "--replay": replay,
            "--record-to": record_to,
        }
        others = [name for name, value in single.items() if value]
        items = items_of(lines, variables)
        run_batch(session, task, items, options, delay=delay, key=key, others=others)
        return
    check_recording(record_to, replay, record=record, wait=wait)
    if replay is not None:
        options["cassette_id"] = cassette_id(session, replay)
    executions = session.client.executions
    if sync:
        if not wait or timeout is not None or delay is not None or key is not None:
            raise UsageProblemError(
                "--sync waits for the answer of one request; it can't be combined with --detach, "
                "--timeout, --delay or --idempotency-key."
            )
        with _missing_task_explained(task):
            ended = executions.run_sync(task, variables, **options)
        _show_end(session, ended, record_to)
        return
    with _missing_task_explained(task):
        accepted = executions.execute(
            task, variables, delay_seconds=delay, idempotency_key=key, **options
        )
    if session.output.as_json and not wait:
        session.output.json(accepted)
        return
    begun: Execution = executions.get(accepted.execution_id)
    if not begun.status.terminal:
        _warn(session, begun.queue)
    if not wait:
        session.output.raw(str(begun.id))
        session.output.say(f"`celeriac monitor {short_id(begun.id)}` follows it.")
        return
    _show_end(session, follow(session, begun, timeout=timeout), record_to)


def _warn(session: CommandContext, queue: str) -> None:
    """Say so where the execution waits in a queue to which no live worker listens."""
    from celeriac.client import ClientError

    if session.output.as_json:
        return
    try:
        processes = session.client.celery_health().processes
    except ClientError:
        return  # the run itself doesn't need the answer
    if warning := unserved(queue, processes):
        session.output.say(warning)


def unserved(queue: str, processes: "Sequence[Worker]") -> str | None:
    """Return a warning where none of the live worker processes listens to `queue`.

    None too where one of an earlier release doesn't say what it listens to.
    """
    taking = [each for each in processes if each.consuming is not False]
    if any(queue in each.queues or not each.queues for each in taking):
        return None
    cure = f"It runs when one does: `celeriac worker -Q {queue}`."
    return f"warning: No live worker listens to the queue {queue}. {cure}"


@contextmanager
def _missing_task_explained(task: str) -> Iterator[None]:
    """Say which command makes a task that doesn't exist of a function that does."""
    from celeriac.cli.offers import hint_for
    from celeriac.client import ClientError

    try:
        yield
    except ClientError as error:
        if error.code != "not_found" or error.details.get("resource") != "task":
            raise
        raise CommandError(
            error.message,
            cure=hint_for(task) or "`celeriac tasks list` shows which there are.",
            exit_code=ExitCode.NOT_FOUND,
            problem=error.code,
        ) from error


def _show_end(session: CommandContext, ended: "Execution", record_to: Path | None) -> None:
    if record_to is not None:
        save_recording(session, ended, record_to)
    show_outcome(session, ended)
