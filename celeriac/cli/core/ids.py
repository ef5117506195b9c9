"""Names and ids in arguments, and their completion. Ids are whole, short, or `last`."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from celeriac.cli.core.output import CommandError, ExitCode, UsageProblemError
from celeriac.kit.ids import parse_uuid

if TYPE_CHECKING:
    from celeriac import wire
    from celeriac.client import Client

LAST = "last"
SEARCHED = 500
"""Short ids are searched among this many, the newest: at most five requests."""
_HEX = 32
_SHORT_ID = re.compile(f"[0-9a-f]{{6,{_HEX}}}")
_SHOWN = 12
_LISTED = 5
_COMPLETED = 100


@dataclass(frozen=True, slots=True)
class IdOf:
    """Marks a command's parameter as the id of a `kind`, as in `client.executions`.

    `open_client` replaces it with the whole id before it calls the command.
    """

    kind: str
    noun: str
    nested: bool = False
    """Whether some are parts of others, which `list(top_level=True)` leaves out."""
    group: str | None = None
    """The group of commands for it, if it is not named like the kind."""
    twin: str | None = None
    """A kind whose ids people confuse with it, as in `client.workflow_runs`."""
    named: bool = False
    """Whether some have names, which commands take, too."""
    either: bool = False
    """Whether the command also takes the id of a twin."""

    @property
    def command(self) -> str:
        """The group of commands for it."""
        return self.group or self.kind.replace("_", "-")

    @property
    def _kind(self) -> str:
        return self.kind.replace("_", " ")

    def resolve(self, client: "Client", text: str) -> str:
        """Return the whole id for `text`.

        A whole id is returned as it is. `last` is the newest, of runs the newest without a parent;
        at least 6 characters are the beginning or the end of one of the newest 500. Raises
        CommandError.
        """
        if parse_uuid(text) is not None and len(text) >= _HEX:
            return text
        wanted = text.lower().replace("-", "")
        resource = getattr(client, self.kind)
        if text.lower() == LAST:
            # asked of the server: a map may have started any number of runs since
            listed = resource.list(top_level=True) if self.nested else resource.list()
            found = [each.id for each in islice(listed, 1)]
            missing = f"There is no {self._kind.removesuffix('s')} yet."
        elif self.named and (called := _newest_named(resource, text)):
            # looked for first: a name may look like the beginning of an id
            found, missing = called, ""
        elif _SHORT_ID.fullmatch(wanted):
            found = _newest_like(resource, wanted)
            if self.twin is not None and not found:
                twins = _newest_like(getattr(client, self.twin), wanted)
                if twins and not self.either:
                    raise self._other(text, twins[0])
                found = twins
            missing = (
                f"None of the newest {SEARCHED} {self._kind} has an id that begins or ends with "
                f"{text}."
            )
        elif self.named:
            found, missing = [], f"There is no {self._kind.removesuffix('s')} {text}."
        else:
            raise UsageProblemError(
                f"{text!r} is not the id of {self.noun}.",
                cure="Give a whole id, at least 6 characters of its beginning or end, "
                f"or `{LAST}`. `celeriac {self.command} list` shows them.",
            )
        if not found:
            raise CommandError(
                missing,
                cure=f"`celeriac {self.command} list` shows them.",
                exit_code=ExitCode.NOT_FOUND,
                problem="not_found",
            )
        if len(found) > 1:
            raise self._ambiguous(text, found)
        return str(found[0])

    def explained(self, client: "Client", whole: str) -> CommandError | None:
        """Return the error for an id of which there is nothing here, if it is that of a twin."""
        from celeriac.client import ClientError

        if self.twin is None or self.either:
            return None
        with suppress(ClientError):
            return self._other(whole, getattr(client, self.twin).get(whole).id)
        return None

    def _other(self, text: str, twin: UUID) -> CommandError:
        """Return the error that names the command for a twin."""
        assert self.twin is not None
        other = _TWINS[self.twin]
        return CommandError(
            f"{text} is the id of {other.noun}, and not of {self.noun}.",
            cure=f"Use `celeriac {other.command}`: `celeriac {other.command} show "
            f"{short_id(twin)}` shows it.",
            exit_code=ExitCode.NOT_FOUND,
            problem="not_found",
        )

    def _ambiguous(self, text: str, found: list[UUID]) -> CommandError:
        more = [f"       and {len(found) - _LISTED} more"] if len(found) > _LISTED else []
        lines = [f"{text} may be {len(found)} {self._kind}:"]
        lines += [f"       {each}" for each in found[:_LISTED]]
        return CommandError(
            "\n".join([*lines, *more]),
            cure="Give more of it, best of its end: ids of about the same time begin alike.",
            exit_code=ExitCode.USAGE,
            problem="ambiguous_id",
        )


def _newest_like(resource: Any, wanted: str) -> list[UUID]:
    """Return the ids among the newest that begin or end with some digits."""
    newest = (each.id for each in islice(resource.list(), SEARCHED))
    return [
        each for each in newest if wanted in (each.hex[: len(wanted)], each.hex[-len(wanted) :])
    ]


def _newest_named(resource: Any, name: str) -> list[UUID]:
    """Return the ids among the newest of what has a name."""
    return [each.id for each in islice(resource.list(), SEARCHED) if each.name == name]


def short_id(whole: UUID | str) -> str:
    """Return the end of an id, which commands accept instead of the whole id.

    The beginning is the time of creation, so the end differs more.
    """
    return str(whole)[-_SHOWN:]


def names_of(kind: str) -> Callable[[str], list[str]]:
    """Return the completion of names; `kind` is as in `client.tasks`."""

    def complete(incomplete: str) -> list[str]:
        return [each.name for each in _newest(kind) if each.name.startswith(incomplete)]

    return complete


def ids_of(kind: str) -> Callable[[str], list[str]]:
    """Return the completion of ids; `kind` is as in `client.executions`."""

    def complete(incomplete: str) -> list[str]:
        found = [LAST, *(str(each.id) for each in _newest(kind))]
        return [each for each in found if each.startswith(incomplete)]

    return complete


def _newest(kind: str) -> Iterator[Any]:
    """Yield the newest resources of the server that the environment or the home names.

    Yields nothing if there is no such server or it does not answer: a shell shows no errors.
    """
    from celeriac.client import Client, ClientError

    with suppress(ClientError), Client.from_env() as client:
        yield from islice(getattr(client, kind).list(), _COMPLETED)


def _argument(
    metavar: str, noun: str, source: str = "", complete: Callable[[str], list[str]] | None = None
) -> Any:
    return typer.Argument(
        metavar=metavar,
        help=f"The {noun}'s id{source}. Whole, its beginning or end, or last.",
        autocompletion=complete,
    )


_EXECUTION = IdOf("executions", "an execution", twin="workflow_runs")
_EXECUTION_ARGUMENT = _argument("EXECUTION", "execution", complete=ids_of("executions"))

_RUN = IdOf("workflow_runs", "a run of a workflow", nested=True, twin="executions")
_TWINS = {each.kind: each for each in (_EXECUTION, _RUN)}

ExecutionId = Annotated[str, _EXECUTION_ARGUMENT, _EXECUTION]
ExecutionOrRunId = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="The id of an execution, or of a run of a workflow. Whole, its beginning or end; "
        "last is the newest execution.",
        autocompletion=ids_of("executions"),
    ),
    replace(_EXECUTION, either=True),
]
OptionalExecutionId = Annotated[str | None, _EXECUTION_ARGUMENT, _EXECUTION]
ExecutionOption = Annotated[
    str | None,
    typer.Option(
        "--execution",
        metavar="ID",
        help="Only of this execution.",
        autocompletion=ids_of("executions"),
    ),
    _EXECUTION,
]
ApprovalId = Annotated[
    str,
    _argument("APPROVAL", "question", ", from `approvals list`", ids_of("approvals")),
    IdOf("approvals", "a question"),
]
RunOption = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="ID",
        help="Only of this run of a workflow.",
        autocompletion=ids_of("workflow_runs"),
    ),
    _RUN,
]
SessionId = Annotated[
    str, _argument("SESSION", "session", complete=ids_of("sessions")), IdOf("sessions", "a session")
]
CassetteId = Annotated[
    str,
    typer.Argument(
        metavar="CASSETTE",
        help="The cassette's id, or the whole id of the execution that recorded it. "
        "Short ids and last mean cassettes.",
    ),
    IdOf("cassettes", "a cassette"),
]
KeyId = Annotated[str, _argument("ID", "key", ", from `keys list`"), IdOf("keys", "a key")]
BudgetId = Annotated[str, _argument("BUDGET", "budget"), IdOf("budgets", "a budget")]
PauseOption = Annotated[
    str | None,
    typer.Option("--id", metavar="PAUSE", help="The pause's id.", autocompletion=ids_of("pauses")),
    IdOf("pauses", "a pause"),
]
WebhookId = Annotated[
    str,
    _argument("WEBHOOK", "webhook", ", from `webhooks list`", ids_of("webhooks")),
    IdOf("webhooks", "a webhook"),
]
WebhookOption = Annotated[
    str | None,
    typer.Option("--webhook", metavar="ID", help="Only to this webhook."),
    IdOf("webhooks", "a webhook"),
]
FailureGroupId = Annotated[
    str,
    _argument("GROUP", "group", ", from `failures list`", ids_of("failures")),
    IdOf("failures", "a group of failures"),
]
BulkJobId = Annotated[
    str,
    _argument("JOB", "job", ", from `bulk list`", ids_of("bulk_jobs")),
    IdOf("bulk_jobs", "a bulk job", group="bulk"),
]
HookId = Annotated[
    str,
    typer.Argument(
        metavar="HOOK",
        help="The hook's name or id, from `hooks list`. Whole, its beginning or end, or last.",
        autocompletion=ids_of("hooks"),
    ),
    IdOf("hooks", "a hook", named=True),
]
DeliveryId = Annotated[
    str,
    _argument("DELIVERY", "delivery", ", from `deliveries list`", ids_of("deliveries")),
    IdOf("deliveries", "a delivery"),
]
AgentName = Annotated[
    str,
    typer.Argument(
        metavar="AGENT", help="The agent's name or id.", autocompletion=names_of("agents")
    ),
]
TaskName = Annotated[
    str,
    typer.Argument(metavar="TASK", help="The task's name or id.", autocompletion=names_of("tasks")),
]
WorkflowName = Annotated[
    str,
    typer.Argument(
        metavar="WORKFLOW",
        help="The workflow's name or id.",
        autocompletion=names_of("workflows"),
    ),
]
LimitName = Annotated[
    str,
    typer.Argument(
        metavar="LIMIT",
        help="The limit's name or id.",
        autocompletion=names_of("limits"),
    ),
]
ScheduleName = Annotated[
    str,
    typer.Argument(
        metavar="SCHEDULE",
        help="The schedule's name or id.",
        autocompletion=names_of("schedules"),
    ),
]
RunId = Annotated[
    str,
    _argument("RUN", "run", complete=ids_of("workflow_runs")),
    _RUN,
]


def starts_of(found: "wire.Schedule | wire.Hook") -> str:
    """Return what a schedule or hook starts, by its name, or by its id if that is not known."""
    if found.task_id is not None:
        return f"task {found.task_name or short_id(found.task_id)}"
    return f"workflow {found.workflow_name or short_id(found.workflow_id or '')}"
