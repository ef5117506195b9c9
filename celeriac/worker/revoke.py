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
    revocations = Revocations(app, settings)

    def revoke_and_cancel(state: Any, task_id: Any, *args: Any, **options: Any) -> Any:
        revocations.add([task_id] if isinstance(task_id, str) else list(task_id or ()))
        return revoke(state, task_id, *args, **options)

    Panel.data["revoke"] = revoke_and_cancel


class Revocations:
    """Cancels the executions of revoked tasks, in one thread that ends when there are no more.

    However many messages come at once, they have one thread and one connection.
    """

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._lock = threading.Lock()
        self._new: list[str] = []
        self._starting: dict[str, float] = {}
        self._runs = False

    def add(self, celery_task_ids: Iterable[Any]) -> None:
        """Cancel the executions of these tasks soon; ids that are no texts are ignored."""
        with self._lock:
            self._new += [each for each in celery_task_ids if isinstance(each, str)]
            if self._runs or not self._new:
                return
            self._runs = True
        threading.Thread(target=self._run, name="revoke", daemon=True).start()

    def _run(self) -> None:
        try:
            # in prefork this is the parent process, whose children must inherit no connection
            container = build(self._settings, service="revoke", connections=1, app=self._app)
        except BaseException:
            with self._lock:
                self._runs = False
            raise
        runs = Runs(container.database, container.plans, container.advance)
        revoke = RevokeCalls(container.database, container.cancel, runs.cancel)
        try:
            while (ids := self._next()) is not None:
                if ids:
                    _cancel(revoke, ids)
                else:
                    time.sleep(_LOOK_SECONDS)
        finally:
            container.close()

    def _next(self) -> list[str] | None:
        """Return ids whose executions are to be cancelled now; None ends the thread.

        Those of tasks that this worker is just starting come again when it has started them.
        """
        now = time.monotonic()
        with self._lock:
            found, self._new = self._new, []
            # after their messages: what is not active now has started, or never will
            active = {request.id for request in list(state.active_requests)}
            started = [
                each for each, until in self._starting.items() if each not in active or until < now
            ]
            for each in started:
                del self._starting[each]
            for each in found:
                if each in active:
                    self._starting[each] = now + _START_SECONDS
            if not found and not started and not self._starting:
                self._runs = False
                return None
        return found + started


def _cancel(revoke: RevokeCalls, celery_task_ids: list[str]) -> None:
    try:
        count = retry_while_unavailable(lambda: revoke(celery_task_ids), seconds=_PATIENCE_SECONDS)
    except Exception:
        logger.exception("celery_call.not_revoked", celery_task_ids=celery_task_ids)
    else:
        if count:
            logger.info("celery_call.revoked", executions=count)
