"""Following an execution to its end: a live view on a terminal, else plain lines."""

from typing import TYPE_CHECKING

from celeriac.cli.core.ids import short_id
from celeriac.cli.core.output import (
    CommandError,
    ExitCode,
    amounts,
    clock,
    duration,
    money,
    plain,
    tokens,
)
from celeriac.cli.executions.notes import failure_text
from celeriac.cli.executions.view import describe
from celeriac.domain.executions.states import Status

if TYPE_CHECKING:
    from celeriac.cli.core.context import CommandContext
    from celeriac.wire import Event, Execution


def follow(
    context: "CommandContext", execution: "Execution", *, timeout: float | None
) -> "Execution":
    """Show the progress of an execution on stderr, and return it when it has ended.

    With `--json` nothing is shown. Raises ClientError, also if it hasn't ended after `timeout`
    seconds, and CommandError after Ctrl-C, which does not stop the execution.
    """
    try:
        if context.output.err.is_terminal and not context.output.as_json:
            from celeriac.cli.executions.live import follow_live

            follow_live(context, execution, timeout)
        else:
            from celeriac.client import Delta

            stream = context.client.executions.stream(
                execution.id, timeout=timeout, on_away=context.say_away
            )
            for each in stream:
                if not isinstance(each, Delta):
                    context.output.say(event_line(each))
    except KeyboardInterrupt as error:
        raise CommandError(
            f"Stopped following; the execution {execution.id} continues.",
            cure=f"`celeriac monitor {short_id(execution.id)}` follows it again, "
            f"`celeriac executions cancel {short_id(execution.id)}` ends it.",
            exit_code=ExitCode.INTERRUPTED,
            problem="interrupted",
        ) from error
    return context.client.executions.get(execution.id)


_LAST_EVENTS = 20
"""The number of last events that are searched for the reason of a cut-off result."""


def cut_off(context: "CommandContext", execution: "Execution") -> str:
    """Return the reason of a result that is cut off: a budget, if the log says so."""
    after = max(0, execution.event_count - _LAST_EVENTS)
    said = [
        str(each.data.get("message"))
        for each in context.client.executions.events(execution.id, after=after)
        if each.type.value == "log" and each.data.get("source") == "budget"
    ]
    found = [each for each in said if "cut off" in each]
    limit = (
        "The model reached its token limit; raise the agent's max_output_tokens, or ask for less."
    )
    return f"Warning: the result is cut off. {found[-1] if found else limit}"


def show_outcome(context: "CommandContext", execution: "Execution") -> None:
    """Write the result to stdout and a summary to stderr.

    Raises CommandError if the execution didn't complete.
    """
    context.output.json(execution)
    if execution.status is Status.COMPLETED and not context.output.as_json:
        context.output.raw(plain(execution.result))
        if execution.truncated:
            context.output.say(cut_off(context, execution))
        context.output.say(summary(execution))
    beyond = overshoot(context, execution)
    if beyond:
        context.output.say(f"Warning: a budget was exceeded: {beyond}.")
    if execution.status is not Status.COMPLETED:
        raise _unsuccessful(execution)


def overshoot(context: "CommandContext", execution: "Execution") -> str:
    """Return by how much each budget of an execution was exceeded; empty if none was."""
    if not execution.input_tokens and not execution.output_tokens:
        return ""
    parts = []
    for each in context.client.budgets.of_execution(execution.id).items:
        if beyond := amounts(each.overshoot_cost, each.overshoot_tokens):
            window = "" if each.window == "run" else f" of {each.window}"
            parts.append(f"{beyond} beyond the {each.scope}'s budget{window}")
    return "; ".join(parts)


def summary(execution: "Execution") -> str:
    """Return status, duration, usage and id of an execution, on one line."""
    parts = [
        execution.status.value,
        duration(execution.duration_seconds),
        f"attempt {execution.attempt}",
    ]
    if execution.input_tokens or execution.output_tokens:
        parts.append(f"{tokens(execution.input_tokens, execution.output_tokens)} tokens")
    if execution.cost:
        parts.append(money(execution.cost))
    return " · ".join([*parts, str(execution.id)])


def event_line(event: "Event") -> str:
    """Return an event as a plain line: time, number, type, description."""
    return f"{clock(event.at)} {event.seq:>3} {event.type.value:<16} {describe(event)}".rstrip()


def _unsuccessful(execution: "Execution") -> CommandError:
    if execution.status is Status.CANCELLED:
        who = f" by {execution.cancel_requested_by}" if execution.cancel_requested_by else ""
        message, problem = f"The execution was cancelled{who}.", "cancelled"
        if execution.error_code and not execution.attempt:
            message = f"The execution was cancelled. {execution.error_message}"
    else:
        message = failure_text(execution.error_code, execution.error_message, execution.error_type)
        problem = execution.error_code or "failed"
    return CommandError(
        message,
        cure=f"`celeriac executions show {short_id(execution.id)}` shows what happened.",
        problem=problem,
    )
