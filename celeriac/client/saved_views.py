"""Saved views: filters of executions under a name."""

from collections.abc import Iterator
from typing import Unpack, cast
from uuid import UUID

from celeriac import wire
from celeriac.client.executions import Conditions, ExecutionFilter, filter_fields
from celeriac.client.transport import Resource, given, path

_VIEWS = "views"


class ViewFilter(Conditions, total=False):
    """Selects the executions that match all given values."""

    created_within: int | None
    """Created in so many seconds before the view is used."""


class SavedViews(Resource):
    """`client.views`: filters of executions under a name.

    Use one as `view` of `client.executions.list`, `search`, `export`, the changes of many, and
    `client.bulk_jobs.preview`.
    """

    def create(
        self, name: str, *, shared: bool = False, **wanted: Unpack[ViewFilter]
    ) -> wire.SavedView:
        """Save a filter, for yourself or `shared` with all members of the workspace.

        `wanted` is as in `client.executions.list`, and `created_within` in seconds.
        """
        body = {"name": name, "shared": shared, "filter": _filter(wanted)}
        return self._transport.post(wire.SavedView, path(_VIEWS), body)

    def get(self, view: str | UUID) -> wire.SavedView:
        """Return a view, by its id or name; your own before the shared one of the same name."""
        return self._transport.get(wire.SavedView, path(_VIEWS, view))

    def list(self) -> Iterator[wire.SavedView]:
        """Yield your views and the shared ones, the newest first, then those that are built in."""
        return self._transport.pages(wire.SavedView, path(_VIEWS))

    def change(
        self,
        view: str | UUID,
        *,
        name: str | None = None,
        shared: bool | None = None,
        **wanted: Unpack[ViewFilter],
    ) -> wire.SavedView:
        """Change what is given; if `wanted` has anything, it is the whole new filter."""
        body = given(name=name, shared=shared, filter=_filter(wanted) or None)
        return self._transport.patch(wire.SavedView, path(_VIEWS, view), body)

    def delete(self, view: str | UUID) -> None:
        """Delete a view."""
        self._transport.send("DELETE", path(_VIEWS, view))


def _filter(wanted: ViewFilter) -> dict[str, object]:
    return filter_fields(cast("ExecutionFilter", wanted))
