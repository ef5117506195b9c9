"""Celery's signals as structured log lines (REQUIREMENTS A10, B11): one handler per signal.

Each line carries `task_id`, `task_name`, `event` and `worker`; arguments and results are cut at
200 characters.
"""

import socket
from typing import Any

from celery import signals

from celeriac.logs import CeleryEvent, LogOptions, configure, flush, get_logger
from celeriac.logs.redact import clip

logger = get_logger(__name__)

_HOST = socket.gethostname()


def connect_logging(worker: LogOptions, beat: LogOptions) -> None:
    """Use Celeriac's log pipeline in Celery's programs, and log their tasks."""
    # Celery sends `celeryd_init` only in a worker, before it sets up logging
    chosen = {"options": beat}

    def worker_starts(**_: Any) -> None:
        chosen["options"] = worker

    def set_up(**_: Any) -> None:
        configure(chosen["options"])

    def write_out(**_: Any) -> None:
        flush()  # a child of prefork runs no exit handlers

    signals.celeryd_init.connect(worker_starts, weak=False)
    signals.setup_logging.connect(set_up, weak=False)
    signals.worker_process_shutdown.connect(write_out, weak=False)
    signals.worker_ready.connect(worker_ready, weak=False)
    signals.task_prerun.connect(task_prerun, weak=False)
    signals.task_postrun.connect(task_postrun, weak=False)
    signals.task_success.connect(task_success, weak=False)
    signals.task_failure.connect(task_failure, weak=False)
    signals.task_retry.connect(task_retry, weak=False)
    signals.task_revoked.connect(task_revoked, weak=False)


def worker_ready(sender: Any, **_: Any) -> None:
    """The worker consumes messages."""
    logger.info(CeleryEvent.WORKER_READY, worker=sender.hostname)


def task_prerun(task_id: str, task: Any, args: Any, kwargs: Any, **_: Any) -> None:
    """A task begins."""
    logger.info(
        CeleryEvent.TASK_PRERUN, **_whose(task_id, task), args=clip(args), kwargs=clip(kwargs)
    )


def task_postrun(task_id: str, task: Any, state: str | None, **_: Any) -> None:
    """A task has ended, in any state."""
    logger.info(CeleryEvent.TASK_POSTRUN, **_whose(task_id, task), state=state)


def task_success(sender: Any, result: Any, **_: Any) -> None:
    """A task returned."""
    logger.info(CeleryEvent.TASK_SUCCESS, **_whose(sender.request.id, sender), result=clip(result))


def task_failure(task_id: str, sender: Any, exception: BaseException, einfo: Any, **_: Any) -> None:
    """A task raised; the line has the whole traceback (REQUIREMENTS B6)."""
    logger.error(
        CeleryEvent.TASK_FAILURE,
        **_whose(task_id, sender),
        error=clip(str(exception)),
        error_type=type(exception).__name__,
        traceback=str(einfo),
    )


def task_retry(sender: Any, request: Any, reason: Any, **_: Any) -> None:
    """A plain task will be retried."""
    logger.warning(CeleryEvent.TASK_RETRY, **_whose(request.id, sender), reason=clip(str(reason)))


def task_revoked(sender: Any, request: Any, terminated: bool, **_: Any) -> None:
    """A plain task was revoked."""
    logger.warning(
        CeleryEvent.TASK_REVOKED, **_whose(request.id, sender, request), terminated=terminated
    )


def _whose(task_id: str, task: Any, request: Any = None) -> dict[str, Any]:
    """`request` is needed for a task that doesn't run: it has no request of its own."""
    return {
        "task_id": task_id,
        "task_name": task.name,
        "worker": (request or task.request).hostname or _HOST,
    }
