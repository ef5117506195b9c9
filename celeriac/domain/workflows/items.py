"""The rules of a step's items: how many may fail, and how a step settles (pure)."""

from dataclasses import dataclass
from typing import Final

from celeriac.domain.workflows.model import Step
from celeriac.domain.workflows.states import StepTransition
from celeriac.kit.text import clip
from celeriac.kit.words import counted

TOO_MANY_FAILURES: Final = "too_many_failures"
"""The error code of a map of which more items failed than may."""

_SHOWN = 300
"""Characters of an item's error in that of its step."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How items of a step have ended; a step that is no map has one."""

    width: int
    failed: int
    cancelled: int


def allowed_failures(step: Step, width: int) -> int:
    """Return how many of `width` items may fail without a failure of the step."""
    return 0 if step.map is None else step.allowed_failures(width)


def is_strict(step: Step, width: int) -> bool:
    """Whether a failure of an item may settle the matter before the others have ended."""
    return width > 1 and allowed_failures(step, width) < width


def settled_as(ended: Ended, *, allowed: int, stopped: bool) -> StepTransition:
    """Return how a step settles whose items have all ended.

    `stopped` says that its run stopped it. An item that a person cancelled counts as failed.
    """
    if ended.failed > allowed:
        return StepTransition.FAIL
    if ended.cancelled and (stopped or ended.failed + ended.cancelled > allowed):
        return StepTransition.CANCEL
    return StepTransition.COMPLETE


def too_many_failures(
    failed: int, width: int, allowed: int, *, first: tuple[int, str] | None
) -> str:
    """Return the error of a map; `first` is the number and the error of the first failed item."""
    said = f"{failed} of {counted(width, 'item')} failed; {allowed} may."
    return said if first is None else f"{said} Item {first[0]}: {clip(first[1], _SHOWN)}"
