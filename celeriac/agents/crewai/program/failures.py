"""Errors that end a crew, as messages of the protocol.

They are not `Exception`s: CrewAI catches those in many places and continues. A provider's failure,
a limit or a bad answer must end the crew; Celeriac retries the execution.
"""

import traceback
from collections.abc import Mapping
from typing import Any

MAX_MESSAGE = 10_000
MAX_TRACEBACK = 20_000


class CrewStopError(BaseException):
    """The crew ends here. `code` is of Celeriac's tree of errors."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after = retry_after
        self.details = details


def report(error: BaseException, place: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `error` message for `error`; `place` names the node that it happened in."""
    known = error if isinstance(error, CrewStopError) else None
    return {
        "type": "error",
        "error": {
            "type": type(_root(error)).__name__,
            "message": clip(str(error) or type(error).__name__, MAX_MESSAGE),
            "traceback": "".join(traceback.format_exception(error))[-MAX_TRACEBACK:],
            "code": known.code if known else None,
            "retryable": known.retryable if known else True,
            "retry_after": known.retry_after if known else None,
            "details": {**(known.details if known else {}), **place},
        },
    }


def clip(text: str, characters: int) -> str:
    """Return `text` cut to `characters`; what was cut ends in an ellipsis."""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _root(error: BaseException) -> BaseException:
    """Return the library's error that a stop was raised from, or the error itself."""
    cause = error.__cause__ if isinstance(error, CrewStopError) else None
    return cause or error
