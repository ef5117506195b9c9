"""The durable calls of users' functions: their places in the code, and what each does.

What a call does is a generator of effects, which `AgentContext` performs with `await` and
`ChildContext` without. Imports little, because each child process loads it.
"""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from celeriac.agents.results import encode_result
from celeriac.domain.errors import (
    CeleriacError,
    ChildFailedError,
    ExecutionError,
    InvalidInputError,
    LeaseLostError,
    PermanentError,
    StepFailedError,
    StepsChangedError,
    TimeLimitError,
)
from celeriac.kit.json_types import JsonObject, JsonValue, checked, loads, storable_text
from celeriac.kit.untrusted import is_a, read_text, result_or, type_name

T = TypeVar("T")

MAX_GATHERED_BYTES = 64_000_000
"""How many bytes of JSON the results of durable calls that `gather` awaits may have together."""

_MAX_NAME = 200
_MAX_MESSAGE = 10_000
_LONGEST_BACKOFF_SECONDS = 300.0
_MOST_DOUBLINGS = 60


class Parking(BaseException):
    """Raised where a durable function waits: the attempt ends here, and another one goes on.

    It is no `Exception`. Let it pass: `finally` blocks run, and what they do is done in each
    attempt.
    """

    def __init__(self, *, more: bool = False) -> None:
        """With `more`, branches of `gather` wait for the end of others to begin."""
        super().__init__()
        self.more = more


@dataclass
class Place:
    """The place of a call in the code, and its name there."""

    path: str
    name: str

    def message(self) -> JsonObject:
        """Return the fields of a message."""
        return {"path": self.path, "name": self.name}


class Scope:
    """The durable calls of a function, or of one branch of `gather`, in their order."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._count = 0
        self._names: dict[str, int] = {}

    def next(self, name: str) -> Place:
        """Return the place of the next call; a name that was used before gets a number."""
        if not name or len(name) > _MAX_NAME:
            raise InvalidInputError(
                f"The name of a step has 1 to {_MAX_NAME} characters.", field="name"
            )
        name = storable_text(name)
        self._count += 1
        uses = self._names[name] = self._names.get(name, 0) + 1
        return Place(f"{self._prefix}{self._count}", name if uses == 1 else f"{name}#{uses}")

    @classmethod
    def inside(cls, place: Place) -> "Scope":
        """Return the scope of what a step's function calls: it isn't called once that is stored."""
        return cls(f"{place.path}.0.")

    def branches(self, given: Collection[Place] = ()) -> Callable[[int], "Scope"]:
        """Return the scopes of the branches of the next `gather` by their numbers, from 0.

        It has the place of the first of the calls `given`, which were made for it just before.
        """
        paths = {place.path for place in given}
        while f"{self._prefix}{self._count}" in paths:
            self._count -= 1
        self._count += 1
        place = f"{self._prefix}{self._count}"
        return lambda number: Scope(f"{place}.{number + 1}.")


SCOPE: ContextVar[Scope | None] = ContextVar("celeriac_scope", default=None)
"""The branch that is running; None outside of `gather`."""


@dataclass(frozen=True, slots=True)
class Request:
    """Send a message and wait for its reply."""

    message: JsonObject


@dataclass(frozen=True, slots=True)
class Call:
    """Call a function of the user, as the step at a place."""

    function: Callable[[], Any]
    place: "Place"


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for so many seconds."""

    seconds: float


Effect = Request | Call | Pause
Flow = Generator[Effect, Any, T]


def named(first: object, others: Sequence[Any]) -> tuple[str, Callable[..., Any], Sequence[Any]]:
    """Return the name, the function and the arguments of `ctx.step(…)`."""
    if isinstance(first, str):
        if not others or not callable(others[0]):
            raise TypeError("ctx.step needs a function: ctx.step(name, function, *arguments)")
        return first, others[0], others[1:]
    if not callable(first):
        raise TypeError("ctx.step needs a function: ctx.step(function, *arguments)")
    return getattr(first, "__name__", "step"), first, others


def step(
    place: Place, function: Callable[[], Any], *, retry: int, backoff: float
) -> Flow[JsonValue]:
    """Call a function once and for all."""
    known = yield Request({"type": "step", **place.message()})
    if known["state"] == "completed":
        return known["value"]
    if known["state"] == "failed":
        raise _failed(place.name, known["error"])
    tries = 0
    while True:
        tries += 1
        try:
            value = yield Call(function, place)
        except (TimeLimitError, LeaseLostError, StepsChangedError):
            raise
        except Exception as error:
            report = _report(error)
            if tries <= retry and report["retryable"]:
                yield Pause(
                    min(backoff * 2 ** min(tries - 1, _MOST_DOUBLINGS), _LONGEST_BACKOFF_SECONDS)
                )
                continue
            yield Request({"type": "step_done", **place.message(), "error": report, "tries": tries})
            raise _failed(place.name, report) from error
        # as a later attempt gets it
        plain = loads(encode_result(value, f"The step {place.name!r}"))
        yield Request({"type": "step_done", **place.message(), "value": plain, "tries": tries})
        return plain


def results_of(step: str | Mapping[str, Any]) -> JsonObject:
    """Return the fields of a message that asks for results; raises InvalidInputError."""
    if isinstance(step, str):
        return {"step": step}
    found = step.get("results_of")
    if not isinstance(found, Mapping) or not {"run", "step"} <= found.keys():
        raise InvalidInputError(
            "ctx.results needs the id of a step, or what steps.ID.results gives for large results: "
            'an object with "results_of".',
            field="step",
        )
    return {"step": found["step"], "run": found["run"]}


def sleep(place: Place, seconds: float | timedelta | None, until: datetime | None) -> Flow[None]:
    """Wait until a time."""
    if (seconds is None) == (until is None):
        raise TypeError("ctx.sleep needs either seconds or until")
    message: dict[str, Any] = {"type": "sleep", **place.message()}
    if until is not None:
        if until.tzinfo is None:
            raise TypeError("until needs a time zone, such as datetime.now(UTC) has")
        message["until"] = until.astimezone(UTC).isoformat()
    else:
        plain = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        message["seconds"] = float(plain or 0.0)
    yield Request(message)


def run(
    place: Place,
    task: str,
    items: Sequence[Mapping[str, Any]],
    *,
    kind: str,
    keep_errors: bool = False,
    **options: Any,
) -> Flow[list[Any]]:
    """Run other tasks; return their results, and with `keep_errors` the errors of those without."""
    message: dict[str, Any] = {
        "type": "run",
        **place.message(),
        "kind": kind,
        "task": task,
        "items": checked([dict(each) for each in items]),
        "keep_errors": keep_errors,
        **{name: value for name, value in options.items() if value is not None},
    }
    reply = yield Request(message)
    results: list[Any] = []
    for child in reply["children"]:
        if child["status"] == "completed":
            results.append(child["result"])
            continue
        error = _child_failed(task, child)
        if not keep_errors:
            raise error
        results.append(error)
    return results


def _child_failed(task: str, child: Mapping[str, Any]) -> ChildFailedError:
    code = child["error_code"] or child["status"]
    return ChildFailedError(
        f"The execution {child['execution_id']} of {task!r} is {child['status']}"
        + (f": {child['error_message']}" if child["error_message"] else "."),
        execution_id=child["execution_id"],
        status=child["status"],
        child_code=code,
    )


def _failed(name: str, error: Mapping[str, Any]) -> StepFailedError:
    kind, message = error["type"], error["message"]
    return StepFailedError(
        f"The step {name!r} failed: {kind}: {message}",
        step=name,
        code=error["code"],
        retryable=error["retryable"],
        error_type=kind,
    )


def _report(error: BaseException) -> JsonObject:
    """Describe an error of a user's function; never raises, whatever its class does."""
    usual = ExecutionError.code
    if is_a(error, CeleriacError):
        usual = read_text(lambda: getattr(error, "code", usual), _MAX_NAME) or usual
    retryable = not (is_a(error, PermanentError) or is_a(error, InvalidInputError))
    said: object = result_or(lambda: getattr(error, "retryable", retryable), retryable)
    name = type_name(type(error))
    return {
        "type": name,
        "message": read_text(lambda: str(error), _MAX_MESSAGE) or name,
        "code": usual,
        "retryable": said if isinstance(said, bool) else retryable,
    }
