"""Inside the child process: call the user's function and report its result or error."""

import json
import logging
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from types import FrameType
from typing import Any, BinaryIO

from celeriac.agents.python import functions
from celeriac.agents.python.child_channel import (
    Channel,
    ChannelHandler,
    PipeTransport,
    SignalGate,
)
from celeriac.agents.python.context import ChildContext
from celeriac.agents.python.steps import Parking
from celeriac.agents.results import encode_result
from celeriac.domain.errors import (
    CeleriacError,
    ChildCrashedError,
    InvalidInputError,
    MemoryLimitError,
    PermanentError,
    ProviderError,
    SoftTimeLimit,
)
from celeriac.kit.child_bootstrap import release_reserve
from celeriac.kit.json_types import loads, storable_text
from celeriac.kit.text import clip_middle
from celeriac.kit.untrusted import is_a, read_json_object, read_text, result_or, type_name

MAX_MESSAGE = 10_000
MAX_TRACEBACK = 50_000

_OWN_FILES = (__file__, functions.__file__)
_TERMINATED = 128 + signal.SIGTERM
_SOFT_SIGNAL = signal.SIGUSR1


def work(start: Mapping[str, Any], commands: BinaryIO, answers: int) -> int:
    """Run the function that the `start` message names and return the exit code of the process.

    `commands` holds the worker's later messages. Exactly one `result` or `error` is sent to the
    descriptor `answers`, unless the process is killed or cancelled.
    """
    owner = os.getpid()
    channel = Channel(answers)
    logging.basicConfig(
        handlers=[ChannelHandler(channel)], level=logging.INFO, format="%(message)s"
    )
    limit = _SoftLimit(channel.signals)
    stop = _Stop(channel.signals)
    transport = PipeTransport(channel, start["job"])
    listener = threading.Thread(
        target=_listen, args=(commands, limit, transport), name="worker", daemon=True
    )
    listener.start()
    try:
        with limit:
            text = _call(start, ChildContext(start["job"], transport))
    except Parking as parking:
        if os.getpid() == owner:
            channel.send({"type": "park", "more": parking.more})
        return 0
    except BaseException as error:
        if os.getpid() != owner or stop.requested:
            raise  # a fork ends, or the worker cancelled: not an error to report
        channel.send({"type": "error", "error": _report(error, start)})
        return 1
    channel.send_line(f'{{"type": "result", "value": {text}}}')
    return 0


def _call(start: Mapping[str, Any], context: ChildContext) -> str:
    job, python = start["job"], start["python"]
    function = functions.find_function(python["function"], python["allowed_modules"])
    arguments = function.arguments(job["variables"], context)
    return encode_result(function.call(**arguments), function.path)


class _SoftLimit:
    """Raises SoftTimeLimit in the main thread, but only while the user's function runs.

    A limit that passes before the function starts is raised at its start.
    """

    def __init__(self, signals: SignalGate) -> None:
        self._signals = signals
        self._main = threading.get_ident()
        self._armed = False
        self._passed = False
        signal.signal(_SOFT_SIGNAL, self._arrived)

    def __enter__(self) -> None:
        self._armed = True
        if self._passed:
            raise _soft_time_limit()

    def __exit__(self, *_: object) -> None:
        self._armed = False

    def raise_now(self) -> None:
        """Interrupt the main thread, also in a blocking system call."""
        signal.pthread_kill(self._main, _SOFT_SIGNAL)

    def _arrived(self, _number: int, _frame: FrameType | None) -> None:
        self._passed = True
        if self._armed:
            self._armed = False
            self._signals.raise_here(_soft_time_limit())


def _soft_time_limit() -> SoftTimeLimit:
    return SoftTimeLimit("The soft time limit has passed. Finish before the hard limit.")


class _Stop:
    """Turns the first SIGTERM into an exit that runs `finally` blocks; later ones do nothing."""

    def __init__(self, signals: SignalGate) -> None:
        self.requested = False
        self._signals = signals
        signal.signal(signal.SIGTERM, self._arrived)

    def _arrived(self, _number: int, _frame: FrameType | None) -> None:
        if not self.requested:
            self.requested = True
            self._signals.raise_here(SystemExit(_TERMINATED))


def _listen(commands: BinaryIO, limit: _SoftLimit, transport: PipeTransport) -> None:
    """Read the worker's messages. SIGTERM follows the message of a cancellation."""
    for line in commands:
        message = json.loads(line)
        if message["type"] == "soft_limit":
            limit.raise_now()
        elif message["type"] == "answer" or "key" in message:
            transport.answered(message)
        elif "id" in message:
            transport.replied(message)


def _report(error: BaseException, start: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report of an error; never raises, whatever the error's class does."""
    if is_a(error, MemoryError):
        release_reserve()
    described = _describe(error, start)
    code, details = None, "{}"
    if is_a(described, CeleriacError):
        code = read_text(lambda: getattr(described, "code", None), MAX_MESSAGE) or None
        details = read_json_object(lambda: getattr(described, "details", {}), MAX_MESSAGE)
    name = type.__getattribute__(type(error), "__name__")
    message = read_text(lambda: str(described), sys.maxsize) or name
    return {
        "type": name,
        "message": clip_middle(message, MAX_MESSAGE),
        "traceback": clip_middle(_traceback(error, f"{name}: {message}"), MAX_TRACEBACK),
        "code": code,
        "retryable": _retryable(described),
        "retry_after": _retry_after(error),
        "details": loads(details),
    }


def _describe(error: BaseException, start: Mapping[str, Any]) -> BaseException:
    """Return the error to report in place of MemoryError, SystemExit and KeyboardInterrupt."""
    if is_a(error, MemoryError):
        memory_mb = start["job"]["limits"]["memory_mb"]
        return MemoryLimitError(f"memory limit of {memory_mb} MB exceeded")
    if is_a(error, SystemExit):
        shown = read_text(lambda: repr(error), MAX_MESSAGE) or type_name(type(error))
        return ChildCrashedError(f"the function ended its process: {shown}")
    if is_a(error, KeyboardInterrupt):
        return ChildCrashedError("the function was interrupted by SIGINT")
    return error


def _retryable(error: BaseException) -> bool:
    if is_a(error, InvalidInputError):
        return False
    usual = not is_a(error, PermanentError)
    said: object = result_or(lambda: getattr(error, "retryable", usual), usual)
    return said if isinstance(said, bool) else usual


def _retry_after(error: BaseException) -> float | None:
    if not is_a(error, ProviderError):
        return None
    said: object = result_or(lambda: error.retry_after, None)
    return float(said) if type(said) in (int, float) and math.isfinite(said) else None  # type: ignore[arg-type]


def _traceback(error: BaseException, last_line: str) -> str:
    """Format a traceback without the frames of Celeriac before the user's code."""
    begin = error.__traceback__
    while begin is not None and begin.tb_frame.f_code.co_filename in _OWN_FILES:
        begin = begin.tb_next
    begin = begin or error.__traceback__
    whole = result_or(lambda: "".join(traceback.format_exception(type(error), error, begin)), None)
    if whole is None:
        own = "".join(result_or(lambda: traceback.format_tb(begin), []))
        whole = f"Traceback (most recent call last):\n{own}{last_line}\n"
    return storable_text(whole)
