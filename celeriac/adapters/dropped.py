"""Logs and counts messages that can't be processed and are dropped."""

import re
import threading

import structlog

from celeriac.logs.redact import clip

logger = structlog.get_logger(__name__)

_EXCERPT = 200
_OPAQUE = re.compile(r"[A-Za-z0-9+/_=-]{24,}")
"""Base64 and keys, which may be secret and are not readable."""


class DroppedMessages:
    """Counts this process's dropped messages. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0

    def record(
        self, reason: str, content: object, *, queue: object = None, task: object = None
    ) -> None:
        """Count a dropped message and log it with a masked excerpt of its `content`."""
        with self._lock:
            self.count += 1
        data = content if isinstance(content, (bytes, bytearray, memoryview, str)) else b""
        logger.error(
            "message.dropped",
            reason=clip(reason),
            queue=clip(queue) if queue is not None else None,
            task_name=clip(task) if task is not None else None,
            size=len(data),
            excerpt=_excerpt(data),
        )


def _excerpt(content: bytes | bytearray | memoryview | str) -> str:
    start = content[: _EXCERPT * 4]
    text = start if isinstance(start, str) else bytes(start).decode(errors="backslashreplace")
    return clip(_OPAQUE.sub("…", text), _EXCERPT)


dropped_messages = DroppedMessages()
"""The count of this process, which the transport and the consumer share."""
