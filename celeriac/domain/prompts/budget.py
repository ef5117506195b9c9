"""What renderings may cost. Work is charged before it is done, so that no part of it is unbounded.

One unit of work is about a microsecond of processor time at most. Costs are counted and not timed:
the same template with the same values is accepted, or refused, on every machine at any load.
"""

import threading
from types import TracebackType
from typing import Self

from celeriac.domain.errors import BusyError, TemplateRenderError

MAX_RENDERED_CHARACTERS = 1_000_000
"""Of one rendered text, and of every text within a template."""

MAX_WORK = 1_000_000
"""Units of work of one rendering: about a second."""

BATCH_WORK = 1_000
"""Units of work that each further rendering of a batch may add."""

_LONG_WORK = 10_000
_LONG = threading.BoundedSemaphore(2)
_PATIENCE = 5.0


class Budget:
    """What one rendering, or several that belong together, may still cost.

    Renderings that work for long take turns, two at a time in a process: many threads that compute
    would keep the others from the interpreter. Use it as a context manager, which gives the turn
    back. Not to be shared between threads.
    """

    def __init__(self, renderings: int = 1, *, patience: float = _PATIENCE) -> None:
        """Allow for so many renderings; wait for a turn `patience` seconds at most."""
        self._left = MAX_WORK + BATCH_WORK * (renderings - 1)
        self._long_below = self._left - _LONG_WORK
        self._patience = patience
        self._has_turn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._has_turn:
            self._has_turn = False
            _LONG.release()

    def spend(self, units: int) -> None:
        """Pay for work that is about to be done.

        Raises TemplateRenderError where that is too much, and BusyError where others compute
        for so long that there is no turn.
        """
        self._left -= units
        if self._left < 0:
            raise TemplateRenderError(
                "The template works too long on these values; shorten its loops or the values "
                "given to it.",
                field="prompt",
            )
        if self._left < self._long_below and not self._has_turn:
            if not _LONG.acquire(timeout=self._patience):
                raise BusyError("Other long prompts are being rendered; send the request again.")
            self._has_turn = True

    def text(self, characters: int) -> None:
        """Pay for a text that is to be made; raises TemplateRenderError where it is too long."""
        if characters > MAX_RENDERED_CHARACTERS:
            raise TemplateRenderError(
                f"A text in the template is over {MAX_RENDERED_CHARACTERS} characters.",
                field="prompt",
            )
        self.spend(1 + characters // 64)
