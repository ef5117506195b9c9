"""`celeriac run`, for one execution or a batch."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from celeriac.cli.cassettes import RecordTo, Replay, cassette_id, check_recording, save_recording
from celeriac.cli.core.arguments import gather, parse_object, read_text
from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.ids import IdOf, TaskName, short_id
from celeriac.cli.core.output import CommandError, ExitCode, UsageProblemError
from celeriac.cli.executions.following import follow, show_outcome
from celeriac.cli.executions.selection import labels_of
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac.client.executions import ExecutionOptions
    from celeriac.wire import Execution, Worker

SUFFIX = ".jsonl"

_ALLOWED = frozenset({"priority", "queue", "callback_url", "expires_in", "labels", "repository"})

Timeout = Annotated[
    float | None,
    typer.Option(min=0, help="Wait at most this many seconds; the execution continues."),
]


_agent_option = partial(typer.Option, rich_help_panel="What its agent may do")
_how_option = partial(typer.Option, rich_help_panel="How it runs")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of a run."""

    priority: Annotated[
        str | None, _how_option(help="low, normal, high or critical; the task's.")
    ] = None
    queue: Annotated[str | None, _how_option(help="Another queue than the task's.")] = None
    delay: Annotated[float | None, _how_option(min=0, help="Start it after this many seconds.")] = (
        None
    )
    expires_in: Annotated[
        float | None,
        _how_option(
            min=0,
            metavar="SECONDS",
            help="Cancel it if it has not begun after this many seconds; the task's.",
        ),
    ] = None
    label: Annotated[
        list[str],
        _how_option("--label", metavar="KEY=VALUE", help="A label to find it by. Repeatable."),
    ] = field(default_factory=list)
    key: Annotated[
        str | None,
        _how_option(
            "--idempotency-key",
            help="Your own name for this run; the same name again starts nothing new.",
        ),
    ] = None
    session: Annotated[
        str | None,
        _agent_option(metavar="ID", help="Continue the session of an earlier execution."),
        IdOf("sessions", "a session"),
    ] = None
    fork: Annotated[
        bool, _agent_option("--fork", help="With --session: continue a copy of it.")
    ] = False
    budget_cost: Annotated[
        float | None,
        _agent_option(
            min=0,
            metavar="DOLLARS",
            help="Limit for the cost of its model calls, instead of the task's budget.",
        ),
    ] = None
    budget_tokens: Annotated[
        int | None,
        _agent_option(
            min=1,
            metavar="COUNT",
            help="Limit for the tokens of its model calls, instead of the task's budget.",
        ),
    ] = None
    ask: Annotated[
        bool,
        _agent_option("--ask", help="Ask a person when this budget is spent, instead of failing."),
    ] = False
    callback_url: Annotated[
        str | None,
        _how_option("--callback-url", metavar="URL", help="Send a signed request when it ends."),
    ] = None
    ref: Annotated[
        str | None,
        _agent_option(help="A branch, tag or commit of the repository; the task's."),
    ] = None
    git: Annotated[
        str | None, _agent_option(metavar="URL", help="Another repository than the task's.")
    ] = None
    git_path: Annotated[
        str | None,
        _agent_option("--git-path", metavar="PATH", help="Its directory to work in; the task's."),
    ] = None
    record: Annotated[
        bool, _agent_option("--record", help="Save its model traffic as a cassette.")
    ] = False

    def _repository(self) -> dict[str, str]:
        chosen = {"git": self.git, "ref": self.ref, "path": self.git_path}
        return {name: value for name, value in chosen.items() if value is not None}

    def for_client(self) -> "ExecutionOptions":
        """Return the options for the client. Raises UsageProblemError."""
        if self.fork and self.session is None:
            raise UsageProblemError("--fork needs --session, the session to copy.")
        limits: dict[str, object] = {}
        if self.budget_cost is not None:
            limits["max_cost"] = str(self.budget_cost)
        if self.budget_tokens is not None:
            limits["max_tokens"] = self.budget_tokens
        if self.ask and not limits:
            raise UsageProblemError("--ask goes with --budget-cost or --budget-tokens.")
        return {
            "priority": self.priority,
            "queue": self.queue,
            "session_id": self.session,
            "fork_session": self.fork,
            "budget": {"on_budget": "ask" if self.ask else "stop", **limits} if limits else None,
            "repository": self._repository() or None,
            "record": self.record,
            "callback_url": self.callback_url,
            "expires_in": self.expires_in,
            "labels": labels_of(self.label) or None,
        }


def is_batch(files: Sequence[str]) -> bool:
    """Return whether one of the files has many items: JSON lines."""
    return any(file.endswith(SUFFIX) for file in files)


def items_of(files: Sequence[str], shared: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the variables of each execution: those of one line, overridden by `shared`.

    Raises UsageProblemError, which names the line.
    """
    items = [{**item, **shared} for file in files for item in _lines(file)]
    if not items:
        raise UsageProblemError(f"There are no items in {', '.join(files)}.")
    return items


def _lines(file: str) -> Iterator[dict[str, Any]]:
    # not splitlines: strings in JSON may contain other line ends, such as U+2028
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            yield parse_object(line, f"{file}, line {number}")


def run_batch(
    context: CommandContext,
    task: str,
    items: Sequence[Mapping[str, Any]],
    options: "ExecutionOptions",
    *,
    delay: float | None,
    key: str | None,
    others: Sequence[str],
) -> None:
    """Run the task once for each item, and print the executions' ids in the items' order.

    Raises UsageProblemError for options of a single run: `others`, and all of `options` but
    priority, queue, expires_in, callback_url, labels and repository.
    """
    given = {name: value for name, value in options.items() if value and name not in _ALLOWED}
    if given or others:
        names = ", ".join([*others, *sorted(given)])
        raise UsageProblemError(
            "A batch takes --priority, --queue, --callback-url, --delay, --expires-in, --label, "
            f"--ref, --git, --git-path and --idempotency-key only; not {names}."
        )
    accepted = context.client.executions.execute_batch(
        task,
        items,
        priority=options.get("priority"),
        queue=options.get("queue"),
        callback_url=options.get("callback_url"),
        expires_in=options.get("expires_in"),
        labels=options.get("labels"),
        repository=options.get("repository"),
        delay_seconds=delay,
        idempotency_key=key,
    )
    context.output.write(accepted, "\n".join(map(str, accepted.execution_ids)))
    context.output.say(
        f"{counted(accepted.count, 'execution')}; "
        f"`celeriac executions list --batch {accepted.batch_id}` lists them, "
        f"`celeriac monitor {short_id(accepted.execution_ids[-1])}` follows the last."
    )


@open_client
def run(
    context: CommandContext,
    *,
    task: TaskName,
    var: Annotated[
        list[str],
        typer.Option("--var", "-v", metavar="NAME=TEXT", help="A variable; NAME:=JSON for JSON."),
    ] = [],  # noqa: B006 - Typer copies it
    vars_file: Annotated[
        list[str],
        typer.Option(
            metavar="FILE",
            help="A JSON object of variables; - for stdin. A .jsonl file is a batch.",
        ),
    ] = [],  # noqa: B006
    input_: Annotated[
        list[str],
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=FILE",
            help="A file's text as a variable; FILE alone, or -, is a JSON object of variables.",
        ),
    ] = [],  # noqa: B006
    wait: Annotated[
        bool, typer.Option("--wait/--detach", help="Follow it to its end, or print its id at once.")
    ] = True,
    sync: Annotated[
        bool, _how_option("--sync", help="Send one request, which is answered at the end.")
    ] = False,
    timeout: Timeout = None,
    run_options: RunOptions,
    record_to: RecordTo = None,
    replay: Replay = None,
) -> None:
    """Run a task, follow it, and print its result.

    The result goes to stdout, everything else to stderr. Ctrl-C stops
    following; the execution continues. Exits with 0 if it completed, else with
    1.

    If the name of a --vars-file ends with .jsonl, the task is run once for each
    line, all or none. The ids are printed in the order of the lines, and nothing
    is followed. Other variables are added to each item.

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
    record = run_options.record
    options = replace(run_options, record=record or record_to is not None).for_client()
    delay, key = run_options.delay, run_options.key
    if lines:
        single = {
            "--sync": sync,
            "--timeout": timeout,
            "--replay": replay,
            "--record-to": record_to,
        }
        others = [name for name, value in single.items() if value]
        items = items_of(lines, variables)
        run_batch(context, task, items, options, delay=delay, key=key, others=others)
        return
    check_recording(record_to, replay, record=record, wait=wait)
    if replay is not None:
        options["cassette_id"] = cassette_id(context, replay)
    with _missing_task_explained(task):
        if sync:
            if not wait or timeout is not None or delay is not None or key is not None:
                raise UsageProblemError(
                    "--sync waits for the answer of one request; it can't be combined with "
                    "--detach, --timeout, --delay or --idempotency-key."
                )
            ended = context.client.executions.run_sync(task, variables, **options)
            _show_end(context, ended, record_to)
            return
        accepted = context.client.executions.execute(
            task, variables, delay_seconds=delay, idempotency_key=key, **options
        )
    if context.output.as_json and not wait:
        context.output.json(accepted)
        return
    begun = context.client.executions.get(accepted.execution_id)
    if not begun.status.terminal:
        _warn(context, begun.queue)
    if not wait:
        context.output.raw(str(begun.id))
        context.output.say(f"`celeriac monitor {short_id(begun.id)}` follows it.")
        return
    _show_end(context, follow(context, begun, timeout=timeout), record_to)


def _warn(context: CommandContext, queue: str) -> None:
    """Warn if no live worker listens to the queue."""
    from celeriac.client import ClientError

    if context.output.as_json:
        return
    try:
        processes = context.client.celery_health().processes
    except ClientError:
        return  # the warning isn't essential
    if warning := unserved(queue, processes):
        context.output.say(warning)


def unserved(queue: str, processes: "Sequence[Worker]") -> str | None:
    """Return a warning if none of the live worker processes listens to `queue`.

    No warning if one of them is of an earlier release, which doesn't report its queues.
    """
    taking = [each for each in processes if each.consuming is not False]
    if any(queue in each.queues or not each.queues for each in taking):
        return None
    cure = f"It runs when one does: `celeriac worker -Q {queue}`."
    return f"warning: No live worker listens to the queue {queue}. {cure}"


@contextmanager
def _missing_task_explained(task: str) -> Iterator[None]:
    """If the task doesn't exist, name the command that creates it from a function."""
    from celeriac.cli.catalog.functions import hint_for
    from celeriac.client import ClientError

    try:
        yield
    except ClientError as error:
        if error.code != "not_found" or error.details.get("resource") != "task":
            raise
        raise CommandError(
            error.message,
            cure=hint_for(task) or "`celeriac tasks list` shows the tasks.",
            exit_code=ExitCode.NOT_FOUND,
            problem=error.code,
        ) from error


def _show_end(context: CommandContext, ended: "Execution", record_to: Path | None) -> None:
    if record_to is not None:
        save_recording(context, ended, record_to)
    show_outcome(context, ended)
