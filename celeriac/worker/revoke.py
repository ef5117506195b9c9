"""Celery's `revoke`, which also cancels the executions that revoked tasks have started."""

import threading
import time
from collections.abc import Iterable
from typing import Any

import structlog
from celery import Celery
from celery.worker import state
from celery.worker.control import Panel

from celeriac.services.executions.calls import RevokeCalls
from celeriac.services.retrying import retry_while_unavailable
from celeriac.services.workflows.runs import Runs
from celeriac.settings import Settings
from celeriac.wiring.core import build

logger = structlog.get_logger(__name__)

_PATIENCE_SECONDS = 600.0
_START_SECONDS = 60.0
_LOOK_SECONDS = 0.1


def follow_revocations(app: Celery, settings: Settings) -> None:
    """Cancel executions for each `revoke` that this worker receives.

    Every worker does so, whichever has the task. It needs no free slot: the executions may have
    them all.
    """
    revoke = Panel.data["revoke"]

    def revoke_and_cancel(state: Any, task_id: Any, *args: Any, **options: Any) -> Any:
        ids = [task_id] if isinstance(task_id, str) else list(task_id or ())
        threading.Thread(
            target=_cancel, args=(app, settings, ids), name="revoke", daemon=True
        ).start()
        return revoke(state, task_id, *args, **options)

    Panel.data["revoke"] = revoke_and_cancel


def _cancel(app: Celery, settings: Settings, celery_task_ids: list[str]) -> None:
    """Cancel the executions of these tasks, over a connection that is closed afterwards.

    In prefork this is the parent process, whose children must inherit no connection.
    """
    container = build(settings, service="revoke", connections=1, app=app)
    runs = Runs(container.database, container.plans, container.advance)
    revoke = RevokeCalls(container.database, container.cancel, runs.cancel)
    try:
        count = retry_while_unavailable(lambda: revoke(celery_task_ids), seconds=_PATIENCE_SECONDS)
        if _wait_for_starts(celery_task_ids):
            count += retry_while_unavailable(
                lambda: revoke(celery_task_ids), seconds=_PATIENCE_SECONDS
            )
    except Exception:
        logger.exception("celery_call.not_revoked", celery_task_ids=celery_task_ids)
    else:
        if count:
            logger.info("celery_call.revoked", executions=count)
    finally:
        container.close()


def _wait_for_starts(celery_task_ids: Iterable[str]) -> bool:
    """Wait while this worker starts one of these tasks; return whether it did."""
    wanted = set(celery_task_ids)
    until = time.monotonic() + _START_SECONDS
    waited = False
    while time.monotonic() < until:
        if not any(request.id in wanted for request in list(state.active_requests)):
            break
        waited = True
        time.sleep(_LOOK_SECONDS)
    return waited
