"""Plain Celery tasks: sending them and reading the result backend."""

from dataclasses import replace
from datetime import datetime
from typing import Any

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from celeriac.adapters.celery_app import CeleryOptions, create_app
from celeriac.domain.celery_states import CeleryState
from celeriac.domain.errors import BrokerUnavailableError, UnavailableError
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
            self._sender.send_task(
                task.name,
                args=list(task.args),
                kwargs=dict(task.kwargs or {}),
                task_id=task_id,
                queue=task.queue,
                retry=False,
            )
        except (OperationalError, RedisError, OSError) as error:
            address = without_password(self._sender.conf.broker_url)
            raise BrokerUnavailableError(
                f"The broker at {address} doesn't answer; send the request again later."
            ) from error

    def state(self, task_id: str) -> CeleryTaskState:
        """Return what the result backend has; raises UnavailableError."""
        try:
            meta = self._results.backend.get_task_meta(task_id)
        except (OperationalError, RedisError, OSError) as error:
            raise UnavailableError("The result backend doesn't answer; ask again later.") from error
        state = CeleryState.read(meta["status"])
        done = meta.get("date_done")
        return CeleryTaskState(
            task_id=task_id,
            state=state,
            name=meta.get("name"),
            worker=meta.get("worker"),
            retries=meta.get("retries") or 0,
            completed_at=datetime.fromisoformat(done) if done else None,
            traceback=meta.get("traceback"),
            **_outcome(state, meta.get("result")),
        )


def _outcome(state: CeleryState, value: Any) -> dict[str, Any]:
    if isinstance(value, BaseException):
        return {"error_type": type(value).__name__, "error_message": str(value)}
    return {"result": value} if state is CeleryState.SUCCESS else {}
