"""Lists, searches and exports of executions."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Unpack

from celeriac import wire
from celeriac.client.executions.filters import EXECUTIONS, ExecutionFilter, filter_fields
from celeriac.client.export import exported
from celeriac.client.transport import Resource, given, path


class ExecutionLists(Resource):
    """The part of `client.executions` that finds executions."""

    def list(
        self, *, include: Sequence[str] | None = None, **wanted: Unpack[ExecutionFilter]
    ) -> Iterator[wire.ExecutionSummary]:
        """Yield executions, the newest first.

        `wanted`: `ids`, `status`, `task`, `agent`, `batch_id`, `origin_id`, `parent_id`,
        `session_id`, `trigger_type`, `waiting_for`, `error_code`, `failure_group`, `label`,
        `without_label`, `created_after`, `created_before`. `include` names fields that may be large
        and are None otherwise: `variables`, `result`, `error_details`. `get` returns an execution
        with all fields.
        """
        params = filter_fields(wanted) | given(include=None if include is None else list(include))
        return self._transport.pages(wire.ExecutionSummary, path(EXECUTIONS), params)

    def search(
        self, text: str, *, windows: int | None = 20, **wanted: Unpack[ExecutionFilter]
    ) -> Iterator[wire.ExecutionSummary]:
        """Yield executions that have a text, the newest first; `wanted` as in `list`.

        Each request looks a bounded number of executions further back. After so many of them,
        `windows`, the search ends, and may have left out older ones: `search_windows` returns how
        far back it looked. None searches to the oldest.
        """
        for window in self.search_windows(text, windows=windows, **wanted):
            yield from window.items

    def search_windows(
        self,
        text: str,
        *,
        windows: int | None = None,
        cursor: str | None = None,
        limit: int | None = None,
        **wanted: Unpack[ExecutionFilter],
    ) -> Iterator[wire.SearchWindow]:
        """Yield what each request of a search has found, `searched_back_to` and `next_cursor`."""
        params = filter_fields(wanted) | given(text=text, limit=limit)
        for _ in itertools.count() if windows is None else range(windows):
            asked = {**params, "cursor": cursor}
            window = self._transport.get(wire.SearchWindow, path(EXECUTIONS, "search"), asked)
            yield window
            cursor = window.next_cursor
            if cursor is None:
                return

    def export(
        self,
        format: str = "csv",  # noqa: A002 - the parameter's public name
        *,
        include: Sequence[str] | None = None,
        limit: int | None = None,
        **wanted: Unpack[ExecutionFilter],
    ) -> Iterator[bytes]:
        """Yield the executions that match as pieces of one `csv` or `ndjson`, the newest first.

        Pieces end anywhere. `wanted` and `include` are as in `list`; `limit` is the most, all if
        None. Raises ClientError, with the code `export_incomplete` if it breaks off.
        """
        included = None if include is None else [*include]
        params = filter_fields(wanted) | given(format=format, include=included)
        return exported(self._transport, path(EXECUTIONS, "export"), params, limit)
