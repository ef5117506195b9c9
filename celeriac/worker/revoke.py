"""Celery's commands that revoke tasks: here they cancel what the tasks have started, too."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
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
    """Cancel executions for each command that revokes tasks and that this worker receives.

    These are `revoke`, `terminate` and `revoke_by_stamped_headers`. Every worker does so, whichever
    has the task. It needs no free slot: the executions may have them all.
    """
    revocations = Revocations(app, settings)
    revoke, terminate = Panel.data["revoke"], Panel.data["terminate"]
    by_stamps = Panel.data["revoke_by_stamped_headers"]

    def revoke_and_cancel(state: Any, task_id: Any, *args: Any, **options: Any) -> Any:
        revocations.add(_listed(task_id))
        return revoke(state, task_id, *args, **options)

    def terminate_and_cancel(state: Any, signal: Any, task_id: Any, **options: Any) -> Any:
        revocations.add(_listed(task_id))
        return terminate(state, signal, task_id, **options)

    def revoke_stamps_and_cancel(state: Any, headers: Any, *args: Any, **options: Any) -> Any:
        revocations.add_stamps(stamps_of(headers))
        return by_stamps(state, headers, *args, **options)

    Panel.data["revoke"] = revoke_and_cancel
    Panel.data["terminate"] = terminate_and_cancel
    Panel.data["revoke_by_stamped_headers"] = revoke_stamps_and_cancel


def _listed(found: Any) -> list[Any]:
    return [found] if isinstance(found, str) else list(found or ())


def stamps_of(headers: Any) -> dict[str, list[str]]:
    """Return the stamps of the command `revoke_by_stamped_headers`, by header.

    Celery takes a dictionary with one stamp or a list for each header, or a list of `header=stamp`.
    What is neither is left out: nobody can have been stamped with it.
    """
    if isinstance(headers, Mapping):
        pairs = [(name, each) for name, given in headers.items() for each in _listed(given)]
    else:
        texts = [each for each in _listed(headers) if isinstance(each, str)]
        pairs = [(name, stamp) for name, _, stamp in (each.partition("=") for each in texts)]
    found: dict[str, list[str]] = {}
    for name, stamp in pairs:
        if isinstance(name, str) and isinstance(stamp, str):
            found.setdefault(name, []).append(stamp)
    return found


class Revocations:
    """Cancels the executions of revoked tasks, in one thread that ends when there are no more.

    However many messages come at once, they have one thread and one connection.
    """

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._lock = threading.Lock()
        self._new: list[str] = []
        self._stamps: list[Mapping[str, Sequence[str]]] = []
        self._added = threading.Event()
        self._starting: dict[str, float] = {}
        self._runs = False

    def add(self, celery_task_ids: Iterable[Any]) -> None:
        """Cancel the executions of these tasks soon; ids that are no texts are ignored."""
        with self._lock:
            self._new += [each for each in celery_task_ids if isinstance(each, str)]
        self._begin()

    def add_stamps(self, stamps: Mapping[str, Sequence[str]]) -> None:
        """Cancel the executions of tasks with any of these stamps soon."""
        starting = [
            request.id
            for request in list(state.active_requests)
            if _has_any(getattr(request, "stamps", None), stamps)
        ]
        with self._lock:
            self._new += starting
            if stamps:
                self._stamps.append(stamps)
        self._begin()

    def _begin(self) -> None:
        with self._lock:
            self._added.set()
            if self._runs or not (self._new or self._stamps):
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
            while (found := self._next()) is not None:
                ids, stamps = found
                for each in stamps:
                    _cancel(partial(revoke.stamped, each), stamps=each)
                if ids:
                    _cancel(partial(revoke, ids), celery_task_ids=ids)
                elif not stamps:
                    self._added.wait(_LOOK_SECONDS)
        finally:
            container.close()

    def _next(self) -> tuple[list[str], list[Mapping[str, Sequence[str]]]] | None:
        """Return ids and stamps whose executions are to be cancelled now; None ends the thread.

        Those of tasks that this worker is just starting come again when it has started them.
        """
        now = time.monotonic()
        with self._lock:
            self._added.clear()
            found, self._new = self._new, []
            stamps, self._stamps = self._stamps, []
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
            if not (found or stamps or started or self._starting):
                self._runs = False
                return None
        return found + started, stamps


def _has_any(own: Any, wanted: Mapping[str, Sequence[str]]) -> bool:
    if not isinstance(own, Mapping):
        return False
    return any(each in stamps for name, stamps in wanted.items() for each in _listed(own.get(name)))


def _cancel(revoke: Callable[[], int], **what: object) -> None:
    try:
        count = retry_while_unavailable(revoke, seconds=_PATIENCE_SECONDS)
    except Exception:
        logger.exception("celery_call.not_revoked", **what)
    else:
        if count:
            logger.info("celery_call.revoked", executions=count)
