"""Runs all checks at once, each for a bounded time."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait

import structlog

from celeriac.domain.accounts import Actor
from celeriac.domain.doctor import Cause, Code, Finding, failed
from celeriac.kit.threads import Threads
from celeriac.services.doctor.checks import Checks

logger = structlog.get_logger(__name__)

CHECK_SECONDS = 8.0
"""How long a check may take: a connection to a server that hangs is given up after five."""

_CALLERS = 8

Check = Callable[[], Iterator[Finding]]


class Doctor:
    """Examines the installation. Safe to share between threads.

    A check runs once at a time: a server that hangs keeps one thread and one connection for each
    check, however often somebody asks.
    """

    def __init__(self, checks: Checks) -> None:
        self._checks = checks.all()
        self._providers = checks.providers
        self._under_way: dict[Code, Future[list[Finding]]] = {}
        self._lock = threading.Lock()
        self._check_threads = Threads("doctor-check", len(self._checks) + 1)
        self.threads = Threads("doctor", _CALLERS)
        """For coroutines that want the findings."""

    def examine(self, actor: Actor, *, providers: bool = False) -> list[Finding]:
        """Return the findings of all checks, within CHECK_SECONDS.

        With `providers` also whether the providers of models answer.
        A check that has not ended by then is a failed finding. Raises ForbiddenError: only an
        administrator sees the instance. Never raises because a server is away.
        """
        actor.require_administrator()
        asked = {Code.PROVIDERS: self._providers} if providers else {}
        checks = {**self._checks, **asked}
        calls = {code: self._begin(code, check) for code, check in checks.items()}
        wait(calls.values(), timeout=CHECK_SECONDS)
        return [
            finding
            for code, call in calls.items()
            for finding in (call.result() if call.done() else [_late(code)])
        ]

    def close(self) -> None:
        """Begin no further checks."""
        for threads in (self.threads, self._check_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, code: Code, check: Check) -> Future[list[Finding]]:
        with self._lock:
            call = self._under_way.get(code)
            if call is None or call.done():
                call = self._under_way[code] = self._started(code, check)
            return call

    def _started(self, code: Code, check: Check) -> Future[list[Finding]]:
        try:
            return self._check_threads.submit(_findings, code, check)
        except (RuntimeError, MemoryError) as error:  # no thread can be started
            refused: Future[list[Finding]] = Future()
            refused.set_result([_unknown(code, error)])
            return refused


def _findings(code: Code, check: Check) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:
        # a fault of one check must not take the others' findings away
        logger.exception("doctor.check_failed", check=code.value)
        return [_unknown(code, error)]


def _late(code: Code) -> Finding:
    message = f"unknown: the check has not ended within {CHECK_SECONDS:g} s"
    cure = "Look at the server that it asks: it hangs, or is overloaded."
    return failed(code, message, cure)


def _unknown(code: Code, error: BaseException) -> Finding:
    message = f"unknown: the check failed with {type(error).__name__}"
    return failed(code, message, "See doctor.check_failed in the API's log.", Cause.BROKEN)
