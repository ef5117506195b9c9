"""What a misconfigured worker lacks, for its report."""

import threading

from celeriac.kit.text import clip

_MOST_LACKS = 20
_LONGEST_LACK = 300


class Lacks:
    """What agents need that this process does not have. Safe to share between threads."""

    def __init__(self) -> None:
        self._messages: dict[str, None] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """The messages of the errors, each once, the latest last."""
        with self._lock:
            return list(self._messages)

    def add(self, message: str) -> None:
        """Remember the message of a WorkerMisconfiguredError; the oldest is dropped."""
        message = clip(message, _LONGEST_LACK)
        with self._lock:
            self._messages.pop(message, None)
            self._messages[message] = None
            if len(self._messages) > _MOST_LACKS:
                del self._messages[next(iter(self._messages))]
