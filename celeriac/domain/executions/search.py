"""Searches of executions for a text, window by window."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from celeriac.domain.executions.model import Execution

LONGEST_TEXT: Final = 200


@dataclass(frozen=True, slots=True)
class SearchWindow:
    """What one request has found."""

    items: Sequence[Execution]
    looked_at: int
    """How many executions were looked at, from the newest."""
    searched_back_to: datetime | None
    """When the oldest of these was made; None if there were none."""
    next_cursor: str | None
    """None if no older executions match the filter."""
