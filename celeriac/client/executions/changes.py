"""Changes of many executions, page after page."""

from collections.abc import Callable
from typing import Any, Unpack
from uuid import uuid4

from celeriac import wire
from celeriac.client.executions.filters import (
    EXECUTIONS,
    ExecutionFilter,
    LiveFilter,
    filter_fields,
)
from celeriac.client.transport import Resource, path

_PAGE = 500
"""The most executions that one request changes."""
OnPage = Callable[[wire.BulkResult], object] | None


class ExecutionChanges(Resource):
    """The part of `client.executions` that changes all that match a filter."""

    def cancel_many(
        self,
        *,
        limit: int | None = None,
        dry_run: bool = False,
        on_page: OnPage = None,
        **wanted: Unpack[LiveFilter],
    ) -> wire.BulkResult:
        """Cancel the executions that match and have not ended, at most `limit`, newest first.

        `wanted` is as in `list`, and `queue`. Sends as many requests as needed and returns one
        result; `on_page` is called with the result of each. With `dry_run` nothing is changed, and
        `remaining` is the number of matches, counted up to 10,000.
        """
        return self._change_live("cancel", filter_fields(wanted), limit, on_page, dry_run=dry_run)

    def prioritise_many(
        self,
        priority: str,
        *,
        limit: int | None = None,
        dry_run: bool = False,
        on_page: OnPage = None,
        **wanted: Unpack[LiveFilter],
    ) -> wire.BulkResult:
        """Give the executions that match and have not ended another priority.

        The other parameters are as in `cancel_many`. Executions that have it are left out.
        """
        body = filter_fields(wanted) | {"priority": priority}
        return self._change_live("prioritise", body, limit, on_page, dry_run=dry_run)

    def move_many(
        self,
        to_queue: str,
        *,
        limit: int | None = None,
        dry_run: bool = False,
        on_page: OnPage = None,
        **wanted: Unpack[LiveFilter],
    ) -> wire.BulkResult:
        """Move the executions that match and have not ended to another queue.

        The other parameters are as in `cancel_many`. Executions that are in it are left out.
        """
        body = filter_fields(wanted) | {"to_queue": to_queue}
        return self._change_live("move", body, limit, on_page, dry_run=dry_run)

    def _change_live(
        self,
        action: str,
        body: dict[str, Any],
        limit: int | None,
        on_page: OnPage,
        *,
        dry_run: bool,
    ) -> wire.BulkResult:
        if dry_run:
            return self._count(action, body)
        return _change(
            body, limit, on_page, lambda page, _: self._transport.post(
                wire.BulkResult, path(EXECUTIONS, "bulk", action), page
            )
        )  # fmt: skip

    def retry_many(
        self,
        *,
        limit: int | None = None,
        dry_run: bool = False,
        on_page: OnPage = None,
        idempotency_key: str | None = None,
        **wanted: Unpack[ExecutionFilter],
    ) -> wire.BulkResult:
        """Retry the executions that match, at most `limit`, newest first.

        `wanted` is as in `list`; `status` is `failed` by default and names ended ones only.
        `skipped` lists executions that can't be retried. The same call with the same key, of at
        most 240 characters, creates nothing twice. `on_page` and `dry_run` are as in `cancel_many`;
        the result has the batch of the last request.
        """
        body = filter_fields(wanted)
        if dry_run:
            return self._count("retry", body)
        key = idempotency_key or str(uuid4())
        return _change(
            body, limit, on_page, lambda page, number: self._transport.create_work(
                wire.BulkResult, path(EXECUTIONS, "bulk", "retry"), page, f"{key}.{number}"
            )
        )  # fmt: skip

    def _count(self, action: str, body: dict[str, Any]) -> wire.BulkResult:
        response = self._transport.send(
            "POST",
            path(EXECUTIONS, "bulk", action),
            body=body | {"limit": 1},
            params={"dry_run": True},
        )
        return wire.BulkResult.model_validate_json(response.content)


def _change(
    body: dict[str, Any],
    limit: int | None,
    on_page: OnPage,
    send: Callable[[dict[str, Any], int], wire.BulkResult],
) -> wire.BulkResult:
    """Send page after page, until `limit` executions were changed or skipped; join the results."""
    pages: list[wire.BulkResult] = []
    seen = 0
    while True:
        body["limit"] = _PAGE if limit is None else min(_PAGE, limit - seen)
        page = send(body, len(pages))
        pages.append(page)
        if on_page is not None:
            on_page(page)
        seen += page.affected + len(page.skipped)
        if page.next_cursor is None or (limit is not None and seen >= limit):
            break
        body["cursor"] = page.next_cursor
    return page.model_copy(
        update={
            "affected": sum(each.affected for each in pages),
            "execution_ids": [key for each in pages for key in each.execution_ids],
            "skipped": [skipped for each in pages for skipped in each.skipped],
            "batch_id": next((each.batch_id for each in pages[::-1] if each.batch_id), None),
        }
    )
