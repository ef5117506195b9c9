"""The cost limits of rendering. Work is charged before it is done, so that all of it is bounded.

One unit of work is at most about a microsecond of CPU time. Costs are counted, not measured: the
same template with the same values is accepted, or refused, on every machine at every load.
"""

import threading
from types import TracebackType
from typing import Self

from celeriac.domain.errors import BusyError, TemplateRenderError

MAX_RENDERED_CHARACTERS = 1_000_000
"""Limit of the rendered text, and of every text within a template."""

MAX_WORK = 1_000_000
"""Limit of one rendering in units of work: about a second."""

BATCH_WORK = 1_000
"""Units of work that each further rendering of a batch adds to the limit."""

_LONG_WORK = 10_000
_LONG = threading.BoundedSemaphore(2)
_WAIT_SECONDS = 5.0


class WorkLimit:
    """The work that one rendering, or a batch of them, may still do.

    At most two long renderings run at a time in a process, because many computing threads would
    keep the others from the interpreter. Use it as a context manager, which releases its
    permit, and in one thread only.
    """

    def __init__(self, renderings: int = 1, *, wait_seconds: float = _WAIT_SECONDS) -> None:
        """Allow `renderings` renderings; a long one waits at most `wait_seconds` for a permit."""
        self._left = MAX_WORK + BATCH_WORK * (renderings - 1)
        self._long_below = self._left - _LONG_WORK
        self._wait_seconds = wait_seconds
        self._has_permit = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._has_permit:
            self._has_permit = False
            _LONG.release()

    def spend(self, units: int) -> None:
        """Count work before it is done.

        Raises TemplateRenderError if the limit is exceeded, and BusyError if other long
        renderings do not end in time.
        """
        self._left -= units
        if self._left < 0:
            raise TemplateRenderError(
                "The template works too long on these values; shorten its loops or the values "
                "given to it.",
                field="prompt",
            )
        if self._left < self._long_below and not self._has_permit:
            if not _LONG.acquire(timeout=self._wait_seconds):
                raise BusyError("Other long prompts are being rendered; send the request again.")
            self._has_permit = True

    def text(self, characters: int) -> None:
        """Count the work of making a text; raises TemplateRenderError if it is too long."""
        if characters > MAX_RENDERED_CHARACTERS:
            raise TemplateRenderError(
                f"A text in the template is over {MAX_RENDERED_CHARACTERS} characters.",
                field="prompt",
            )
        self.spend(1 + characters // 64)
