"""Saved views: filters of executions under a name, private to a user or shared in a workspace."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from celeriac.kit.json_types import JsonObject

MOST_VIEWS: Final = 100
"""The most private views of a user in a workspace, and the most shared ones of a workspace."""


@dataclass(frozen=True, slots=True)
class SavedView:
    """A filter of executions under a name."""

    id: UUID
    name: str
    filter: JsonObject
    """As given, with its names; it is checked again each time it is used."""
    shared: bool
    """Whether all members of the workspace see it, or only its owner."""
    workspace_id: UUID | None = None
    """None, as the rest, for one that is built in."""
    owner_id: UUID | None = None
    created_by: str | None = None
    """The owner's name at the time."""
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def built_in(self) -> bool:
        """Whether it is part of the release and can't be changed."""
        return self.owner_id is None


def _built_in(number: int, name: str, selects: JsonObject) -> SavedView:
    # an id older than all others, so that the built-in views are the last of the list
    return SavedView(UUID(int=number), name, selects, shared=True)


BUILT_IN: Final[Sequence[SavedView]] = (
    _built_in(3, "failed-last-day", {"status": ["failed"], "created_within": 86_400}),
    _built_in(2, "waiting-for-approval", {"waiting_for": "approval"}),
    _built_in(1, "did-nothing", {"flag": "no_op"}),
)
"""The views that each workspace has, in the order of the list."""


def built_in(reference: str | UUID) -> SavedView | None:
    """Return the built-in view with this name or id, or None."""
    return next((each for each in BUILT_IN if reference in {each.name, each.id}), None)
