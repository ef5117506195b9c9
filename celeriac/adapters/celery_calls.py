"""Ends Celery tasks outside of Celery's worker, by Celery's own means.

A task that stands for an execution runs once, to start it, and is ignored then. Its end is traced
here in the thread that ends it: Celery stores the result, sends callbacks and the next task of a
chain, and counts it in its chord.
"""

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import Celery, Task, signals
from celery.app.task import Context
from celery.app.trace import build_tracer
from celery.exceptions import QueueNotFound, TaskRevokedError
from celery.result import denied_join_result
from celery.states import FAILURE, REVOKED, STARTED
from kombu.exceptions import SerializationError, SerializerNotInstalled
from kombu.utils import json as celery_json

from celeriac.domain.errors import CeleryCallError
from celeriac.domain.executions.calls import Call, CallOutcome, NewCall, Raised, Returned, Revoked
from celeriac.kit.json_types import dumps, storable

_KEPT = (
    "id", "task", "lang", "shadow", "root_id", "parent_id", "group", "group_index", "retries",
    "timelimit", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting",
    "stamped_headers", "stamps", "headers", "reply_to", "correlation_id", "delivery_info",
    "callbacks", "errbacks", "chain", "chord",
)  # fmt: skip
"""What Celery needs of a request to end its task."""

_GROUP_SUFFIXES = ("", ".j", ".t", ".s", ".d")
"""The keys of a group in Redis: its results, and what its chord counts."""

_FAULTS = (
    TypeError, ValueError, LookupError, SerializationError, SerializerNotInstalled, QueueNotFound,
)  # fmt: skip
"""What Celery raises for callbacks that nobody can send, such as those of a broken message."""

ending: ContextVar[Returned | None] = ContextVar("ending", default=None)
"""What the function of a task must return, while its end is traced."""


def new_call(request: Context) -> NewCall:
    """Return the Celery task of a request. Raises TypeError for what can't be stored."""
    kept = {name: value for name in _KEPT if (value := getattr(request, name, None)) is not None}
    message = {"request": kept, "args": list(request.args or ()), "kwargs": request.kwargs or {}}
    # Celery's JSON has types of its own, which it writes as objects
    text = storable(json.loads(celery_json.dumps(message)))
    return NewCall(request.id, request.task, text, _expires_at(getattr(request, "expires", None)))


def _expires_at(expires: object) -> datetime | None:
    """Return the time until which a task may begin; None without one that can be read."""
    if isinstance(expires, str):
        try:
            expires = datetime.fromisoformat(expires)
        except ValueError:
            return None  # Celery ignores it, too
    if not isinstance(expires, datetime):
        return None
    return expires if expires.tzinfo is not None else expires.replace(tzinfo=UTC)


def mark_started(task: Task) -> None:
    """Store that the task of the current request has been started."""
    request = task.request
    if not _ignores_result(task, request):
        meta = {"hostname": request.hostname}
        task.backend.store_result(request.id, meta, STARTED, request=request)


class CeleryCallEnding:
    """Ends the tasks of one Celery app. Safe to share between threads."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def end(self, call: Call, outcome: CallOutcome) -> None:
        """End a task; see `CallEnding.end`."""
        if call.message is None:
            return
        message = celery_json.loads(dumps(call.message))
        task = self._task(call.task_name)
        request = {
            **message["request"],
            "args": message["args"],
            "kwargs": message["kwargs"],
            "hostname": socket.gethostname(),
            "is_eager": False,
            "called_directly": False,
        }
        request["delivery_info"] = {**(request.get("delivery_info") or {}), "redelivered": False}
        try:
            self._end(task, request, outcome)
        except _FAULTS as error:
            raise CeleryCallError(f"{type(error).__name__}: {error}") from error

    def _end(self, task: Task, request: Mapping[str, Any], outcome: CallOutcome) -> None:
        with denied_join_result():  # sending must not subscribe to the result
            match outcome:
                case Returned():
                    self._succeed(task, request, outcome)
                case Raised(message):
                    _fail(task, Context(request), CeleryCallError(message))
                case Revoked(message):
                    _revoke(task, Context(request), TaskRevokedError(message))

    def _task(self, name: str) -> Task:
        if name not in self._app.tasks:
            self._app.loader.import_default_modules()  # in beat nothing has done it
        return self._app.tasks[name]

    def _succeed(self, task: Task, request: Mapping[str, Any], outcome: Returned) -> None:
        # `propagate`: an unavailable broker must not fail a task whose execution has a result
        trace = build_tracer(
            task.name, task, app=self._app, hostname=request["hostname"], propagate=True
        )
        token = ending.set(outcome)
        try:
            trace(request["id"], request["args"], request["kwargs"], request)
        finally:
            ending.reset(token)

    def keep(self, calls: Sequence[Call]) -> None:
        """Prolong the keys of tasks and their groups in Redis; see `CallEnding.keep`."""
        backend = self._app.backend
        is_redis = self._app.conf.result_backend.startswith(("redis", "sentinel"))
        if not is_redis or not backend.expires:
            return
        pipeline = backend.client.pipeline(transaction=False)
        for key in {key for call in calls for key in _keys(backend, call)}:
            pipeline.expire(key, backend.expires, gt=True)
        pipeline.execute()


def _fail(task: Task, request: Context, error: Exception) -> None:
    info = _store_error(task, request, error, FAILURE)
    signals.task_failure.send(
        sender=task,
        task_id=request.id,
        exception=error,
        args=request.args,
        kwargs=request.kwargs,
        traceback=None,
        einfo=info,
    )


def _revoke(task: Task, request: Context, error: Exception) -> None:
    _store_error(task, request, error, REVOKED)
    signals.task_revoked.send(
        sender=task, request=request, terminated=False, signum=None, expired=False
    )


def _store_error(task: Task, request: Context, error: Exception, state: str) -> ExceptionInfo:
    """Store a failure, and let it end the chain, the chord and the callbacks of the task."""
    try:
        raise error
    except type(error):
        info = ExceptionInfo()
    task.backend.mark_as_failure(
        request.id,
        error,
        info.traceback,
        request=request,
        store_result=not _ignores_result(task, request),
        state=state,
    )
    return info


def _keys(backend: Any, call: Call) -> Iterator[Any]:
    yield backend.get_key_for_task(call.celery_task_id)
    for group in _groups(call.message or {}):
        for suffix in _GROUP_SUFFIXES:
            yield backend.get_key_for_group(group, suffix)


def _groups(value: Any) -> Iterator[str]:
    """Yield the ids of all groups that a message names: its own, and those of what follows it."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            if name in {"group", "group_id"} and isinstance(each, str):
                yield each
            else:
                yield from _groups(each)
    elif isinstance(value, list):
        for each in value:
            yield from _groups(each)


def _ignores_result(task: Task, request: Context) -> bool:
    given = request.ignore_result
    return bool(task.ignore_result if given is None else given)
