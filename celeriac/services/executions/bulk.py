"""Changes executions by filter: cancels, repeats, moves and prioritises them page by page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from uuid import UUID

import structlog

from celeriac.db.engine import Database
from celeriac.db.executions import create, lifecycle, queries
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import CeleriacError, ConflictError
from celeriac.domain.executions.model import Execution, ExecutionFilter, Idempotency
from celeriac.domain.paging import read_cursor, write_cursor
from celeriac.domain.tasks import Priority
from celeriac.kit.ids import uuid7
from celeriac.services.executions.change import Change
from celeriac.services.executions.repeat import Groups, Repeat, store
from celeriac.services.executions.stop import Cancel
from celeriac.services.executions.submit import STALE_SPEC_TRIES, claim_key, same_request

logger = structlog.get_logger(__name__)

_KIND = "bulk"

_MAX_COUNTED = 10_000
"""The limit of a count, because a count takes time."""


@dataclass(frozen=True, slots=True)
class BulkPage:
    """What one request has changed, and how many matching executions remain."""

    remaining: int
    """At most 10,000, which means that or more."""
    next_cursor: str | None
    execution_ids: Sequence[UUID] = ()
    """The changed executions, or the new ones."""
    refused: Mapping[UUID, CeleriacError] = field(default_factory=dict)
    """The errors of executions that were not repeated, by their ids."""
    batch_id: UUID | None = None
    created: bool = True
    """False if an idempotency key found an earlier request."""


class Bulk:
    """Changes the executions that match a filter, among those that the actor may see.

    Each request selects a bounded number of them, with smaller ids than its cursor's. So it never
    selects executions that are created meanwhile, such as repeats. The remaining ones are counted
    before anything is changed, so that no later error hides what was changed.
    """

    def __init__(self, database: Database, cancel: Cancel, change: Change, repeat: Repeat) -> None:
        self._database = database
        self._cancel = cancel
        self._change = change
        self._repeat = repeat

    def count(self, actor: Actor, wanted: ExecutionFilter, *, cursor: str | None) -> BulkPage:
        """Count what another method would select, and change nothing."""
        page = self._page(
            replace(wanted, workspace_id=actor.workspace_id), read_cursor(_KIND, cursor)
        )
        return replace(page, next_cursor=None)

    def cancel(
        self, actor: Actor, wanted: ExecutionFilter, *, cursor: str | None, limit: int
    ) -> BulkPage:
        """Cancel up to `limit` executions; see `Cancel`.

        `wanted` is cancellable. Raises ForbiddenError, CursorInvalidError.
        """
        return self._change_page(actor, wanted, cursor, limit, self._cancel.those)

    def prioritise(
        self,
        actor: Actor,
        wanted: ExecutionFilter,
        priority: Priority,
        *,
        cursor: str | None,
        limit: int,
    ) -> BulkPage:
        """Give up to `limit` executions another priority; see `Change` and `cancel`."""
        apply = partial(self._change.prioritise_those, priority=priority)
        return self._change_page(actor, wanted, cursor, limit, apply)

    def move(
        self, actor: Actor, wanted: ExecutionFilter, queue: str, *, cursor: str | None, limit: int
    ) -> BulkPage:
        """Move up to `limit` executions to `queue`; see `Change` and `cancel`.

        Sends nothing: call `Dispatch.try_to_send` afterwards, or leave it to the keeper.
        """
        apply = partial(self._change.move_those, queue=queue)
        return self._change_page(actor, wanted, cursor, limit, apply)

    def _change_page(
        self,
        actor: Actor,
        wanted: ExecutionFilter,
        cursor: str | None,
        limit: int,
        apply: Callable[[Actor, Sequence[UUID]], Sequence[UUID]],
    ) -> BulkPage:
        actor.require(Role.OPERATOR)
        before = read_cursor(_KIND, cursor)
        wanted = replace(wanted, workspace_id=actor.workspace_id)
        with self._database.autocommit() as connection:
            ids = queries.find_ids(connection, wanted, before=before, limit=limit)
        page = self._page(wanted, ids[-1] if ids else before)
        return replace(page, execution_ids=apply(actor, ids))

    def retry(
        self,
        actor: Actor,
        wanted: ExecutionFilter,
        *,
        cursor: str | None,
        limit: int,
        idempotency: Idempotency | None = None,
    ) -> BulkPage:
        """Repeat up to `limit` executions, fewer if they are large or slow to check.

        `wanted` names statuses of executions that have ended. The new ones are a batch, stored in
        one transaction. Sends nothing: call `Dispatch.send_due` afterwards, or leave it to the
        keeper. Raises ForbiddenError, CursorInvalidError, IdempotencyMismatchError, and
        ConflictError if a task is changed all the time.
        """
        actor.require(Role.OPERATOR)
        before = read_cursor(_KIND, cursor)
        wanted = replace(wanted, workspace_id=actor.workspace_id)
        with self._database.autocommit() as connection:
            key = idempotency and create.find_key(connection, actor, idempotency.key)
            # another request is refused before its work begins
            earlier = same_request(key, idempotency) if key and idempotency else None
            origins = queries.find(
                connection, wanted, before=before, limit=limit, include=("variables",)
            ).items
        for attempt in range(STALE_SPEC_TRIES):
            if earlier is None:
                checked = self._check(actor, origins, fresh=attempt > 0)
                page = self._page(wanted, checked.last or before)
                page = replace(page, refused=checked.refused)
                if not checked.accepted:
                    return page
                batch_id = uuid7()
                try:
                    with self._database.transaction() as connection:
                        earlier = claim_key(connection, actor, idempotency, "batch", batch_id)
                        made = (
                            None
                            if earlier
                            else list(store(connection, actor, checked.accepted, batch_id).values())
                        )
                except lifecycle.StaleSpecError:
                    continue
                if made is not None:
                    logger.info("batch.created", batch_id=batch_id, count=len(made))
                    return replace(page, execution_ids=made, batch_id=batch_id)
            if earlier is not None:
                return self._earlier(actor, wanted, origins, before, earlier)
        raise ConflictError("A task is being changed; send the request again.")

    def _earlier(
        self,
        actor: Actor,
        wanted: ExecutionFilter,
        origins: Sequence[Execution],
        before: UUID | None,
        batch_id: UUID,
    ) -> BulkPage:
        """Return the answer of an earlier request. Its refusals are not stored, so check again."""
        with self._database.autocommit() as connection:
            made = queries.of_batch(connection, batch_id, workspace=actor.workspace_id)
        repeated = {origin for origin in made.values() if origin is not None}
        last = min(repeated, default=before)
        rest = [
            each for each in origins if each.id not in repeated and (last is None or each.id > last)
        ]
        return replace(
            self._page(wanted, last),
            execution_ids=list(made),
            refused=self._check(actor, rest, fresh=True).refused,
            batch_id=batch_id,
            created=False,
        )

    def _check(self, actor: Actor, origins: Sequence[Execution], *, fresh: bool) -> "_Checked":
        checked = self._repeat.check(actor, origins, fresh=fresh)
        last = origins[checked.looked - 1].id if checked.looked else None
        # a repeated request knows only the stored executions, so the page ends with the last one
        accepted = [each.id for _, group in checked.accepted for each in group]
        end = min(accepted, default=last)
        refused = checked.refused.items()
        kept = {key: why for key, why in refused if end is not None and key >= end}
        return _Checked(checked.accepted, kept, end)

    def _page(self, wanted: ExecutionFilter, last: UUID | None) -> BulkPage:
        """Return a page that ends with `last`, before anything is changed."""
        with self._database.autocommit() as connection:
            remaining = queries.count(connection, wanted, before=last, most=_MAX_COUNTED)
        more = last if remaining else None
        return BulkPage(remaining, None if more is None else write_cursor(_KIND, more))


@dataclass(frozen=True, slots=True)
class _Checked:
    """Executions that can be repeated, and the errors of others of the page."""

    accepted: Groups
    refused: Mapping[UUID, CeleriacError]
    last: UUID | None
    """The oldest of the page: the oldest accepted one, if there is any."""
