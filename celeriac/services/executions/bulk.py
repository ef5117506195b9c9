"""Cancels and repeats executions by filter: page by page, the newest first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from celeriac.db.engine import Database
from celeriac.db.executions import create, queries
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import CeleriacError
from celeriac.domain.executions.model import ExecutionFilter, Idempotency
from celeriac.domain.paging import read_cursor, write_cursor
from celeriac.services.executions.repeat import Replayed, ReplayMany
from celeriac.services.executions.stop import Cancel
from celeriac.services.executions.submit import same_request

_KIND = "bulk"

MAX_COUNTED = 10_000
"""The limit of a count, because a count takes time."""


@dataclass(frozen=True, slots=True)
class BulkPage:
    """What one request has changed, and how many matching executions remain."""

    execution_ids: Sequence[UUID]
    """The cancelled executions, or the new ones."""
    remaining: int
    """At most MAX_COUNTED, which means that or more."""
    next_cursor: str | None
    refused: Mapping[UUID, CeleriacError] = field(default_factory=dict)
    """The errors of executions that were not repeated, by their ids."""
    batch_id: UUID | None = None
    created: bool = True
    """False if an idempotency key found an earlier request."""


class Bulk:
    """Changes the executions that match a filter, among those that the actor may see.

    Each request selects a bounded number of them, with smaller ids than its cursor's. So it never
    selects executions that are created meanwhile, such as repeats.
    """

    def __init__(self, database: Database, cancel: Cancel, replay: ReplayMany) -> None:
        """Read from `database`; change through `cancel` and `replay`."""
        self._database = database
        self._cancel = cancel
        self._replay = replay

    def count(self, actor: Actor, wanted: ExecutionFilter, *, cursor: str | None) -> BulkPage:
        """Count what `cancel` or `retry` would select, and change nothing."""
        page = self._page(actor, wanted, (), read_cursor(_KIND, cursor))
        return replace(page, next_cursor=None)

    def cancel(
        self, actor: Actor, wanted: ExecutionFilter, *, cursor: str | None, limit: int
    ) -> BulkPage:
        """Cancel up to `limit` executions; see `Cancel`.

        `wanted` is cancellable. Raises ForbiddenError, CursorInvalidError.
        """
        actor.require(Role.OPERATOR)
        before = read_cursor(_KIND, cursor)
        scoped = _scoped(actor, wanted)
        seen, moved = self._cancel.newest(actor, scoped, before=before, limit=limit)
        return self._page(actor, wanted, moved, seen[-1] if seen else before)

    def retry(
        self,
        actor: Actor,
        wanted: ExecutionFilter,
        *,
        cursor: str | None,
        limit: int,
        idempotency: Idempotency | None = None,
    ) -> BulkPage:
        """Repeat up to `limit` executions, fewer if their variables are large.

        `wanted` names statuses of executions that have ended. The new ones are a batch. Raises
        ForbiddenError, CursorInvalidError, IdempotencyMismatchError and what `ReplayMany` raises.
        """
        actor.require(Role.OPERATOR)
        before = read_cursor(_KIND, cursor)
        scoped = _scoped(actor, wanted)
        if idempotency is not None:
            with self._database.statement() as connection:
                key = create.find_key(connection, owner_id=actor.user_id, key=idempotency.key)
            if key is not None:
                return self._earlier(actor, wanted, before, same_request(key, idempotency))
        with self._database.statement() as connection:
            found = queries.find(
                connection, scoped, before=before, limit=limit, include=("variables",)
            ).items
        # the oldest first, as they were submitted
        made = self._replay(actor, found[::-1], idempotency)
        if not made.created and made.batch_id is not None:
            return self._earlier(actor, wanted, before, made.batch_id)
        return self._repeated(actor, wanted, made, found[-1].id if found else before)

    def _repeated(
        self, actor: Actor, wanted: ExecutionFilter, made: Replayed, seen: UUID | None
    ) -> BulkPage:
        """Return a page whose cursor is the last execution that was repeated.

        A repeated request knows no other, because errors are not stored.
        """
        last = min(made.execution_ids, default=seen)
        page = self._page(actor, wanted, list(made.execution_ids.values()), last)
        refused = {key: why for key, why in made.refused.items() if last is None or key >= last}
        return replace(page, refused=refused, batch_id=made.batch_id)

    def _earlier(
        self, actor: Actor, wanted: ExecutionFilter, before: UUID | None, batch_id: UUID
    ) -> BulkPage:
        with self._database.statement() as connection:
            made = queries.origins_of_batch(connection, batch_id, owner=actor.user_id)
        last = min((origin for origin in made.values() if origin is not None), default=before)
        page = self._page(actor, wanted, list(made), last)
        return replace(page, batch_id=batch_id, created=False)

    def _page(
        self, actor: Actor, wanted: ExecutionFilter, changed: Sequence[UUID], last: UUID | None
    ) -> BulkPage:
        with self._database.statement() as connection:
            remaining = queries.count(
                connection, _scoped(actor, wanted), before=last, most=MAX_COUNTED
            )
        if last is None or not remaining:
            return BulkPage(changed, remaining, None)
        return BulkPage(changed, remaining, write_cursor(_KIND, last))


def _scoped(actor: Actor, wanted: ExecutionFilter) -> ExecutionFilter:
    return wanted if actor.scope is None else replace(wanted, owner_id=actor.scope)
