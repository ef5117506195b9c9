"""Plain Celery tasks: sent through the API, and their results."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from celery.backends.base import KeyValueStoreBackend
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError, ResponseError

from celeriac.adapters.celery_queue import CeleryOptions, broker_errors, create_app, producer_of
from celeriac.domain.errors import ResultUnreadableError, UnavailableError
from celeriac.domain.executions.states import CeleryState
from celeriac.kit.json_types import dumps
from celeriac.logs.redact import redact
from celeriac.services.operations.celery_tasks import CeleryTaskState, PlainTask


class CeleryPlainTasks:
    """Sends plain tasks and reads their results. Safe to share between threads.

    The app that sends has no result backend: Celery would keep a subscription for each result, and
    block while Redis is unavailable. Workers store results all the same.
    """

    def __init__(self, options: CeleryOptions) -> None:
        self._sender = create_app(replace(options, result_backend="disabled"))
        self._results = create_app(options)

    def send(self, task: PlainTask, task_id: str) -> None:
        """Publish `task`; raises BrokerUnavailableError."""
        with broker_errors(self._sender), producer_of(self._sender) as producer:
            self._sender.send_task(
                task.name,
                args=list(task.args),
                kwargs=dict(task.kwargs or {}),
                task_id=task_id,
                queue=task.queue,
                retry=False,
                producer=producer,
            )

    def state(self, task_id: str) -> CeleryTaskState:
        """Return the stored state; raises UnavailableError, ResultUnreadableError."""
        try:
            return _state(task_id, self._results.backend.get_task_meta(task_id))
        except Exception as error:  # Celery does not check what is stored under the key
            is_no_text = isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")
            if isinstance(error, OperationalError | RedisError | OSError) and not is_no_text:
                message = "The result backend doesn't answer; ask again later."
                raise UnavailableError(message) from error
            raise ResultUnreadableError(task_id) from error

    def states(self, task_ids: Sequence[str]) -> Mapping[str, CeleryTaskState | None]:
        """Return stored states, on Redis in one round trip; None for what can't be read.

        Raises UnavailableError.
        """
        backend = self._results.backend
        if not isinstance(backend, KeyValueStoreBackend):
            return {each: self._readable(each) for each in task_ids}
        keys = [backend.get_key_for_task(each) for each in task_ids]
        try:
            stored = backend.mget(keys)
        except (OperationalError, RedisError, OSError) as error:
            raise UnavailableError("The result backend doesn't answer.") from error
        return {
            each: _stored_state(backend, each, value)
            for each, value in zip(task_ids, stored, strict=True)
        }

    def _readable(self, task_id: str) -> CeleryTaskState | None:
        try:
            return self.state(task_id)
        except ResultUnreadableError:
            return None


def _stored_state(
    backend: KeyValueStoreBackend, task_id: str, value: bytes | None
) -> CeleryTaskState | None:
    """Return what is stored; an unknown task is PENDING, as in Celery. None if it can't be read."""
    if value is None:  # also of a value that is no text: MGET has none for it
        return CeleryTaskState(task_id=task_id, state=CeleryState.PENDING)
    try:
        meta = backend.meta_from_decoded(backend.decode(value))
        return _state(task_id, meta)
    except Exception:  # noqa: BLE001 - Celery does not check what is stored under the key
        return None


def _state(task_id: str, meta: Mapping[str, Any]) -> CeleryTaskState:
    """Return the state in `meta`; raises any error if Celery did not write it."""
    state = CeleryState.read(meta["status"])
    found = CeleryTaskState(
        task_id=task_id,
        state=state,
        name=_text(meta.get("name")),
        worker=_text(meta.get("worker")),
        retries=int(meta.get("retries") or 0),
        completed_at=_time(meta.get("date_done")),
        traceback=_text(meta.get("traceback")),
        **_arguments(meta),
        **_outcome(state, meta.get("result")),
    )
    dumps(asdict(found))  # raises for values that can't be encoded in the response
    return found


def _arguments(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments, which workers store with `result_extended`, with secrets masked."""
    args, kwargs = meta.get("args"), meta.get("kwargs")
    return {
        "args": redact(list(args)) if isinstance(args, list | tuple) else None,
        "kwargs": redact(dict(kwargs)) if isinstance(kwargs, Mapping) else None,
    }


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"expected a text, got a {type(value).__name__}")


def _time(value: Any) -> datetime | None:
    if not value:
        return None
    time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _outcome(state: CeleryState, value: Any) -> dict[str, Any]:
    if isinstance(value, BaseException):
        return {"error_type": type(value).__name__, "error_message": str(value)}
    return {"result": value} if state is CeleryState.SUCCESS else {}
