"""Celery tasks that stand for executions: their arguments, and how they end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from celeriac.domain.errors import InvalidInputError, TooLargeError
from celeriac.domain.executions.own_tasks import OWN_TASKS
from celeriac.domain.executions.states import Status
from celeriac.domain.executions.steps import MAX_RESULTS_BYTES
from celeriac.domain.tasks import Priority, QueueName
from celeriac.kit.json_types import MAX_DEPTH, JsonObject, JsonValue, loads, storable
from celeriac.kit.words import counted

EXECUTE_AGENT = f"{OWN_TASKS}execute_agent"
EXECUTE_WORKFLOW = f"{OWN_TASKS}execute_workflow"
BATCH_PROCESS = f"{OWN_TASKS}batch_process"

PREVIOUS = "input"
"""The variable that gets the result of the Celery task before."""

MAX_ITEMS = 10_000
"""The most executions of one `batch_process`."""

_OPTIONS = frozenset({"previous", "priority", "queue"})
_QUEUE = TypeAdapter(QueueName | None)


class CallKind(StrEnum):
    """What a Celery task stands for."""

    EXECUTION = "execution"
    BATCH = "batch"
    WORKFLOW = "workflow"


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a Celery task, checked and complete.

    `variables` has one entry per execution, or the input of the workflow.
    """

    name: str
    """Name or id of the task or workflow."""
    variables: Sequence[JsonObject]
    priority: int | None = None
    queue: str | None = None


@dataclass(frozen=True, slots=True)
class NewCall:
    """A Celery task that shall end with the execution, batch or workflow run that it starts.

    `message` is what Celery needs to end it, as JSON text.
    """

    celery_task_id: str
    task_name: str
    message: str = field(repr=False)
    expires_at: datetime | None = None
    """Celery's `expires`: what it starts may not begin later."""


@dataclass(frozen=True, slots=True)
class Call:
    """A stored Celery task; the subject is its execution, batch or workflow run."""

    celery_task_id: str
    task_name: str
    kind: CallKind
    subject_id: UUID
    workspace_id: UUID
    owner_id: UUID
    tries: int
    """How often its end was tried; each try has a number of its own."""
    message: JsonObject | None = field(repr=False)
    """None once it has ended."""


@dataclass(frozen=True, slots=True)
class CalledExecution:
    """The end of an execution, or of a workflow run, that a Celery task has started."""

    id: UUID
    status: Status
    result: JsonValue
    error_code: str | None
    error_message: str | None

    @property
    def error(self) -> JsonObject:
        """Why it has no result."""
        cancelled = self.status is Status.CANCELLED
        return {
            "execution_id": str(self.id),
            "code": "cancelled" if cancelled else self.error_code,
            "message": "The execution was cancelled." if cancelled else self.error_message,
        }


@dataclass(frozen=True, slots=True)
class Returned:
    """The Celery task succeeds with this result."""

    value: JsonValue


@dataclass(frozen=True, slots=True)
class Raised:
    """The Celery task fails with this message."""

    message: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """The Celery task counts as revoked."""

    message: str


CallOutcome = Returned | Raised | Revoked


def outcome_of(call: Call, ended: Sequence[CalledExecution]) -> CallOutcome:
    """Return how a Celery task ends whose executions, in their order, have ended like this."""
    if call.kind is CallKind.BATCH:
        return Returned(batch_result(call.subject_id, ended))
    what = "workflow run" if call.kind is CallKind.WORKFLOW else "execution"
    if not ended:
        return Raised(f"not_found: The {what} {call.subject_id} was deleted.")
    (one,) = ended
    match one.status:
        case Status.COMPLETED:
            return Returned(one.result)
        case Status.CANCELLED:
            return Revoked(f"The {what} {one.id} was cancelled.")
    return Raised(f"{one.error_code}: {one.error_message} ({what} {one.id})")


def too_large(call: Call) -> Raised:
    """Return how a batch ends whose results are too large for one Celery result."""
    return Raised(
        f"results_too_large: The results of the batch {call.subject_id} have more than "
        f"{MAX_RESULTS_BYTES:,} bytes of JSON together. The executions have ended: read their "
        "results from the API, one by one. Start smaller batches, or let the executions return "
        "less."
    )


def batch_result(batch_id: UUID | None, ended: Sequence[CalledExecution]) -> JsonObject:
    """Return the result of a batch: the results in order, None for an error, and the errors."""
    return {
        "batch_id": None if batch_id is None else str(batch_id),
        "results": [one.result if one.status is Status.COMPLETED else None for one in ended],
        "errors": [
            {"index": index, **one.error}
            for index, one in enumerate(ended)
            if one.status is not Status.COMPLETED
        ],
    }


def execute_agent_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    """Read `execute_agent([previous result,] task, variables, **options)`.

    The result of the Celery task before is the first argument if the second one is the task.
    Raises InvalidInputError.
    """
    found = _read("task", "variables", args, kwargs)
    variables = found.content if found.content is not None else {}
    return _arguments(found, [_with_previous(found, variables, "variables")])


def execute_workflow_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    """Read `execute_workflow([previous result,] workflow, input, **options)` in the same way."""
    found = _read("workflow", "input", args, kwargs)
    if found.queue is not None:
        raise InvalidInputError(
            "queue is no argument: each step has the queue of its task.", field="queue"
        )
    given = found.content if found.content is not None else {}
    return _arguments(found, [_with_previous(found, given, "input")])


def batch_process_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    """Read `batch_process([previous result,] task, items, **options)`.

    With `items`, each execution has one of them as its variables, and the result of the Celery task
    before. Without them that result must be a list, and each execution has one of its elements.
    Raises InvalidInputError.
    """
    found = _read("task", "items", args, kwargs)
    if found.content is not None:
        variables = [
            _with_previous(found, item, f"items.{index}")
            for index, item in enumerate(_list(found.content))
        ]
    elif found.results is not None and found.name is not None:
        variables = [{found.name: each} for each in _list(found.results[0])]
    else:
        raise InvalidInputError(
            "items is missing; give a list of objects with the variables of each execution.",
            field="items",
        )
    if len(variables) > MAX_ITEMS:
        raise TooLargeError(
            f"There are {counted(len(variables), 'item')}; give at most {MAX_ITEMS:,}.",
            field="items",
        )
    return _arguments(found, variables)


@dataclass(frozen=True, slots=True)
class _Found:
    target: str
    content: Any
    results: tuple[Any] | None
    """The result of the Celery task before, if there was one."""
    name: str | None
    """The variable for it; None leaves it out."""
    priority: int | None
    queue: str | None


def _read(target: str, content: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Found:
    unknown = sorted(set(kwargs) - {target, content} - _OPTIONS)
    if unknown:
        raise InvalidInputError(
            f"{unknown[0]!r} is no argument; there are {target}, {content}, previous, priority and "
            "queue.",
            field=unknown[0],
        )
    rest, results = list(args), None
    if rest and (target in kwargs or (len(rest) > 1 and isinstance(rest[1], str))):
        results = (rest.pop(0),)
    named = [name for name in (target, content) if name not in kwargs]
    if len(rest) > len(named):
        raise InvalidInputError(
            f"There are too many arguments: give the {target} and its {content}; a chain puts the "
            "result of the task before in front of them.",
            field="args",
        )
    given = {**dict(zip(named, rest, strict=False)), **kwargs}
    name = given.get(target)
    if not isinstance(name, str) or not name:
        raise InvalidInputError(f"{target} must be the name or the id of a {target}.", field=target)
    return _Found(
        target=name,
        content=given.get(content),
        results=results,
        name=_text(given.get("previous", PREVIOUS), "previous"),
        priority=_priority(given.get("priority")),
        queue=_queue(given.get("queue")),
    )


def _arguments(found: _Found, variables: Sequence[JsonObject]) -> Arguments:
    try:
        plain = loads(storable(variables, depth=MAX_DEPTH))  # Celery's JSON knows dates, too
    except TypeError as error:
        raise InvalidInputError(
            f"The variables can't be stored: {error}.", field="variables"
        ) from error
    return Arguments(found.target, plain, found.priority, found.queue)


def _with_previous(found: _Found, variables: Any, field: str) -> JsonObject:
    if not isinstance(variables, Mapping):
        raise InvalidInputError(f'{field} must be an object, as {{"text": …}}.', field=field)
    if found.results is None or found.name is None:
        return variables
    if found.name in variables:
        raise InvalidInputError(
            f"{field} has {found.name!r}, which is the variable for the result of the task before; "
            "name another one with previous, or give previous=None.",
            field=f"{field}.{found.name}",
        )
    return {**variables, found.name: found.results[0]}


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise InvalidInputError(
            "items must be a list; without it the result of the task before must be one.",
            field="items",
        )
    return value


def _text(value: Any, field: str) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise InvalidInputError(f"{field} must be a text.", field=field)


def _priority(value: Any) -> Priority | None:
    if value is None:
        return None
    try:
        return Priority.parse(value)
    except (AttributeError, KeyError) as error:
        known = ", ".join(each.label for each in Priority)
        raise InvalidInputError(f"priority must be one of {known}.", field="priority") from error


def _queue(value: Any) -> str | None:
    try:
        return _QUEUE.validate_python(value)
    except ValidationError as error:
        raise InvalidInputError(f"queue: {error.errors()[0]['msg']}.", field="queue") from error
