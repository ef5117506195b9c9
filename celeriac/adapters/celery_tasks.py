"""Plain Celery tasks: sending them and reading the result backend."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError, ResponseError

from celeriac.adapters.celery_app import (
    BROKER_FAILURES,
    CeleryOptions,
    create_app,
    producer_of,
)
from celeriac.domain.celery_states import CeleryState
from celeriac.domain.errors import (
    BrokerUnavailableError,
    ResultUnreadableError,
    UnavailableError,
)
from celeriac.kit.jsontypes import dumps
from celeriac.kit.urls import without_password
from celeriac.services.celery_tasks import CeleryTaskState, PlainTask


class CeleryPlainTasks:
    """Sends plain tasks and reads their results. Safe to share between threads.

    Sending with a result backend makes Celery listen for the result, which nobody here waits for:
    it would keep a subscription per task, and block while Redis is away. So the app that sends has
    none; workers store results all the same.
    """

    def __init__(self, options: CeleryOptions) -> None:
        """Use the broker and the result backend of `options`; nothing is connected yet."""
        self._sender = create_app(replace(options, result_backend="disabled"))
        self._results = create_app(options)

    def send(self, task: PlainTask, task_id: str) -> None:
        """Publish `task`; raises BrokerUnavailableError."""
        try:
            with producer_of(self._sender) as producer:
                self._sender.send_task(
                    task.name,
                    args=list(task.args),
                    kwargs=dict(task.kwargs or {}),
                    task_id=task_id,
                    queue=task.queue,
                    retry=False,
                    producer=producer,
                )
        except BROKER_FAILURES as error:
            address = without_password(self._sender.conf.broker_url)
            raise BrokerUnavailableError(
                f"The broker at {address} doesn't answer; send the request again later."
            ) from error

    def state(self, task_id: str) -> CeleryTaskState:
        """Return what the result backend has; raises UnavailableError, ResultUnreadableError."""
        try:
            meta = self._results.backend.get_task_meta(task_id)
            return _state(task_id, meta)
        except (OperationalError, RedisError, OSError) as error:
            if not _is_of_another_type(error):
                raise UnavailableError(
                    "The result backend doesn't answer; ask again later."
                ) from error
            raise ResultUnreadableError(task_id) from error
        except Exception as error:  # anything may lie under a key, and Celery trusts it
            raise ResultUnreadableError(task_id) from error


def _is_of_another_type(error: Exception) -> bool:
    """Whether Redis says that the key holds no text but, say, a list."""
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")


def _state(task_id: str, meta: Mapping[str, Any]) -> CeleryTaskState:
    """Return what `meta` says; raises any error for what is no entry of Celery's."""
    state = CeleryState.read(meta["status"])
    state_of = CeleryTaskState(
        task_id=task_id,
        state=state,
        name=_text(meta.get("name")),
        worker=_text(meta.get("worker")),
        retries=int(meta.get("retries") or 0),
        completed_at=_time(meta.get("date_done")),
        traceback=_text(meta.get("traceback")),
        **_outcome(state, meta.get("result")),
    )
    dumps(asdict(state_of))  # what can't be encoded can't be told
    return state_of


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
