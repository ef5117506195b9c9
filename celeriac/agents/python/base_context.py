"""What the parameter `ctx` of all users' functions has, and the transport of its messages.

The durable calls are in `calls`. Imports little, because each child process loads it.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from celeriac.agents.python import steps
from celeriac.agents.python.functions import task_name
from celeriac.agents.python.steps import SCOPE, Flow, Place, Scope
from celeriac.kit.json_types import JsonObject, JsonValue, checked, storable_text

LOG_LEVELS = frozenset({"debug", "info", "warning", "error", "critical"})

Sent_co = TypeVar("Sent_co", covariant=True)
"""What sending returns: None, or a coroutine that returns None."""
Asked_co = TypeVar("Asked_co", covariant=True)
"""What asking returns: an answer, or a coroutine that returns an answer."""


class Transport(Protocol[Sent_co, Asked_co]):
    """Carries the messages of a function to its worker."""

    @property
    def workdir(self) -> Path:
        """The execution's directory."""

    def time_left(self) -> float:
        """Return the seconds until the hard limit."""

    def send(self, message: JsonObject) -> Sent_co:
        """Send a message of the child protocol; raises TypeError if it can't be stored."""

    def show(self, message: JsonObject) -> None:
        """Send a `delta` message."""

    def ask(self, message: JsonObject) -> Asked_co:
        """Send an `ask` message and wait for the answer; raises Parking."""

    def request(self, message: JsonObject) -> Any:
        """Send a message of a durable call and return its reply, or a coroutine that does."""


class BaseContext(ABC, Generic[Sent_co, Asked_co]):
    """The methods of `ctx` that are the same for coroutines and plain functions."""

    def __init__(self, job: JsonObject, transport: Transport[Sent_co, Asked_co]) -> None:
        self._job = job
        self._transport = transport
        self._scope = Scope()

    def _place(self, name: str) -> Place:
        return (SCOPE.get() or self._scope).next(name)

    @abstractmethod
    def _perform(self, place: Place, flow: Flow[Any]) -> Any:
        """Return what a durable call returns, or a coroutine that returns it."""

    @property
    def execution_id(self) -> str:
        """The execution's id."""
        return str(self._job["execution_id"])

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return int(self._job["attempt"])

    @property
    def prompt(self) -> str:
        """The task's prompt, rendered with the variables."""
        return str(self._job["prompt"])

    @property
    def workdir(self) -> Path:
        """The execution's directory.

        It is the current directory of a plain function; coroutine functions share the worker's.
        """
        return self._transport.workdir

    @property
    def correlation(self) -> dict[str, str]:
        """The ids that every log line of this attempt carries."""
        return dict(self._job["correlation"])

    def time_left(self) -> float:
        """Return the seconds until the hard limit; they do not pass while a question is open."""
        return self._transport.time_left()

    def idempotency_key(self, step: str) -> str:
        """Return the key of an outside effect: the same in every attempt of the execution."""
        return f"{self._job['idempotency_prefix']}{step}"

    def emit(self, name: str, data: JsonObject | None = None) -> Sent_co:
        """Add an event with JSON data to the execution's log.

        Raises TypeError for data that can't be stored unchanged (docs/python-agents.md).
        """
        own = checked(dict(data or {}))
        return self._transport.send({"type": "event", "data": {"name": name, "data": own}})

    def progress(self, done: float, total: float | None = None, note: str = "") -> Sent_co:
        """Report how much of the work is done."""
        return self._transport.send(
            {"type": "progress", "done": done, "total": total, "note": storable_text(note)}
        )

    def log(self, message: str, *, level: str = "info", **fields: Any) -> Sent_co:
        """Write a log line; `level` is debug, info, warning, error or critical."""
        if level not in LOG_LEVELS:
            raise ValueError(f"there is no log level {level!r}; use one of {sorted(LOG_LEVELS)}")
        return self._transport.send(
            {
                "type": "log",
                "level": level,
                "message": storable_text(message),
                "logger": "agent",
                "fields": checked(fields),
            }
        )

    def delta(self, data: JsonObject) -> None:
        """Show a piece of streaming output to clients that watch; it is never stored."""
        self._transport.show({"type": "delta", "data": checked(dict(data))})

    def charge(
        self,
        *,
        provider: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        cached_tokens: int = 0,
        latency_ms: int = 0,
        finish_reason: str | None = None,
    ) -> Sent_co:
        """Record a model call of this function; its cost is computed if the price is known."""
        return self._transport.send(
            {
                "type": "usage",
                "provider": provider,
                "model": model,
                "input_tokens": input_tokens,
                "output_tokens": output_tokens,
                "cached_tokens": cached_tokens,
                "latency_ms": latency_ms,
                "finish_reason": finish_reason,
            }
        )

    def ask(
        self,
        title: str,
        *,
        key: str | None = None,
        schema: JsonObject | None = None,
        expires_seconds: float | None = None,
        on_expiry: str | None = None,
        default: JsonValue = None,
    ) -> Asked_co:
        """Ask a person and wait for the answer; the time limits are suspended meanwhile.

        The answer's `value` is a text or, with a JSON `schema`, a value that fits it. A question
        with the same `key` is the same question with the same answer, in later attempts too;
        without `key`, equal questions are. `on_expiry` (deny, approve, fail) and `expires_seconds`
        default to the agent's; `default` is the value if the question expires with `approve`.
        Raises ApprovalExpiredError, InvalidInputError and TypeError.
        """
        question = {"kind": "form" if schema else "question", "title": title, "schema": schema}
        expiry = {"expires_seconds": expires_seconds, "on_expiry": on_expiry}
        return self._ask(question, key, {**expiry, "default": checked(default)})

    def approve(
        self,
        tool: str,
        arguments: JsonObject | None = None,
        *,
        key: str | None = None,
        title: str | None = None,
        expires_seconds: float | None = None,
        on_expiry: str | None = None,
    ) -> Asked_co:
        """Ask a person whether `tool` may be called with `arguments`, and wait for the answer.

        The answer's `value` holds other arguments if the person changed them, else None. See `ask`.
        """
        call = {"kind": "tool", "tool": tool, "arguments": dict(arguments or {})}
        expiry = {"expires_seconds": expires_seconds, "on_expiry": on_expiry}
        return self._ask(call, key, {**expiry, "title": title or f"May {tool} be called?"})

    def _ask(self, question: JsonObject, key: str | None, others: JsonObject) -> Asked_co:
        """Ask a question; without `key`, equal questions of all attempts have the same one."""
        if not key:
            text = json.dumps(checked(question), sort_keys=True)
            digest = hashlib.sha256(text.encode()).hexdigest()[:32]
            key = f"{question['kind']}-{digest}"
        place = self._place(f"ask {question['kind']}").message()
        return self._transport.ask({"type": "ask", "key": key, **place, **question, **others})

    def _step(
        self,
        first: str | Callable[..., Any],
        arguments: Sequence[Any],
        named: Mapping[str, Any],
        *,
        retry: int,
        backoff: float,
    ) -> Any:
        known, function, others = steps.named(first, arguments)
        place = self._place(known)
        call = partial(function, *others, **named)
        return self._perform(place, steps.step(place, call, retry=retry, backoff=backoff))

    def sleep(
        self,
        seconds: float | timedelta | None = None,
        *,
        until: datetime | None = None,
        name: str = "sleep",
    ) -> Sent_co:
        """Wait for so many seconds, or until a time with a zone, over any number of attempts.

        The seconds count from the first attempt that calls this.
        """
        place = self._place(name)
        slept: Sent_co = self._perform(place, steps.sleep(place, seconds, until))
        return slept

    def _run(
        self,
        task: str | Callable[..., Any],
        variables: Mapping[str, Any] | None,
        *,
        name: str | None,
        **options: Any,
    ) -> Any:
        task = task_name(task)
        place = self._place(name or task)
        flow = steps.run(place, task, [variables or {}], kind="run", **options)
        return self._perform(place, _first(flow))

    def _map(
        self,
        task: str | Callable[..., Any],
        items: Sequence[Mapping[str, Any]],
        *,
        return_errors: bool,
        name: str | None,
        **options: Any,
    ) -> Any:
        task = task_name(task)
        place = self._place(name or task)
        flow = steps.run(place, task, items, kind="map", keep_errors=return_errors, **options)
        return self._perform(place, flow)

    def _labels(self, labels: Mapping[str, str | None] | None) -> JsonObject:
        """Return the message that changes labels; raises TypeError."""
        return {"type": "label", "labels": checked(dict(labels or {}))}

    def _wanted(self, step: str | Mapping[str, Any], after: int) -> JsonObject:
        """Return the message that asks for results of a step; raises InvalidInputError."""
        return {"type": "results", **steps.results_of(step), "after": after}


def _first(flow: Flow[list[Any]]) -> Flow[Any]:
    return (yield from flow)[0]
