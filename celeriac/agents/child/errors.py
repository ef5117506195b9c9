"""Maps the reports and exits of child processes to errors."""

import signal
from collections.abc import Mapping, Sequence

from celeriac.agents.child.protocol import ErrorReport
from celeriac.domain import errors
from celeriac.domain.errors import CeleriacError, ChildCrashedError
from celeriac.kit.child_bootstrap import CANNOT_EXECUTE, CANNOT_GUARD, GUARD_FAULTS
from celeriac.kit.json_types import JsonValue

_REPORTABLE: dict[str, type[CeleriacError]] = {
    error.code: error
    for error in (
        errors.AgentMisconfiguredError,
        errors.ChildCrashedError,
        errors.ContentFilteredError,
        errors.MemoryLimitError,
        errors.ModelCallLimitError,
        errors.OutputInvalidError,
        errors.PermanentError,
        errors.ProviderError,
        errors.ProviderRateLimitedError,
        errors.ProviderRefusedError,
        errors.RetryableError,
        errors.SoftTimeLimit,
        errors.VariablesInvalidError,
    )
}


def error_of(report: ErrorReport) -> CeleriacError:
    """Return the error that a child reported, with its type and traceback in the details.

    An unknown code is kept: packages define subclasses of RetryableError and PermanentError.
    """
    base: type[CeleriacError] = errors.RetryableError if report.retryable else errors.PermanentError
    kind = base
    if report.code is not None:
        known = _REPORTABLE.get(report.code)
        kind = known or type(base.__name__, (base,), {"code": report.code})
    given = {"retry_after": report.retry_after} if issubclass(kind, errors.ProviderError) else {}
    error = kind(report.message, **given)
    error.details = {
        **error.details,
        **report.details,
        "type": report.type,
        "traceback": report.traceback,
    }
    return error


def crash_of(returncode: int, stderr_tail: Sequence[str], *, memory_mb: int) -> ChildCrashedError:
    """Return the error of a child that exited without a result; `returncode` is that of Popen."""
    details: dict[str, JsonValue] = {"exit_code": returncode, "stderr": "\n".join(stderr_tail)}
    # shells use the same exit codes
    by_guard = len(stderr_tail) == 1 and stderr_tail[0].startswith(GUARD_FAULTS)
    if returncode in (CANNOT_GUARD, CANNOT_EXECUTE) and by_guard:
        message = "The child process could not be started"
    elif returncode >= 0:
        message = f"The child process exited with code {returncode} and no result"
    else:
        details["signal"] = _signal_name(-returncode)
        message = f"The child process was killed by {details['signal']}"
        message += _HINTS.get(-returncode, "")
        if -returncode in (signal.SIGABRT, signal.SIGSEGV):
            message += f" (it had a memory limit of {memory_mb} MB)"
    last = _last_line(stderr_tail)
    message += f"; its last line on stderr: {last}" if last else "."
    return ChildCrashedError(message, **details)


_HINTS: Mapping[int, str] = {
    signal.SIGKILL: ", not by Celeriac; the kernel does this when memory runs out",
    signal.SIGXCPU: ": its CPU time limit was exceeded",
}


def _last_line(stderr_tail: Sequence[str]) -> str:
    """Return the last line that is not a frame or a heading of a traceback."""
    for line in reversed(stderr_tail):
        if line.strip() and not line.startswith(" ") and not line.endswith(":"):
            return line.strip()
    return ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
