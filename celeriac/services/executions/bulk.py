"""Cancels and repeats executions by filter: page by page, the newest first."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import structlog
from sqlalchemy import Connection

from celeriac.db.engine import Database
from celeriac.db.executions import create, lifecycle, queries
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import CeleriacError, ConflictError, InvalidInputError, NotFoundError
from celeriac.domain.executions.model import (
    Execution,
    ExecutionFilter,
    ExecutionSpec,
    stored_options,
)
from celeriac.domain.paging import read_cursor, write_cursor
from celeriac.domain.prompts import WorkLimit
from celeriac.kit.ids import uuid7
from celeriac.services.cassettes import check_traffic
from celeriac.services.catalog.plans import SpecCache
from celeriac.services.executions.repeat import request_of, task_deleted
from celeriac.services.executions.stop import Cancel
from celeriac.services.executions.submit import (
    Idempotency,
    check_one,
    check_owner,
    claim_key,
    new_executions,
    same_request,
)

logger = structlog.get_logger(__name__)

_KIND = "bulk"
_STALE_PLAN_TRIES = 3

_MAX_COUNTED = 10_000
"""Executions are counted up to so many: counting takes longer the more there are."""

_CHECK_SECONDS = 5.0
"""A page of retries ends after so much checking, so that clients get an answer in time."""


@dataclass(frozen=True, slots=True)
class BulkPage:
    """What one request has changed, and how many matching executions it has left."""

    remaining: int
    """At most 10,000, which stands for so many or more."""
    next_cursor: str | None
    execution_ids: Sequence[UUID] = ()
    """Those that were cancelled or asked to stop, or the new ones."""
    refused: Mapping[UUID, CeleriacError] = field(default_factory=dict)
    """Why some were not repeated, by their ids."""
    batch_id: UUID | None = None
    created: bool = True
    """False where an idempotency key found what an earlier request has made."""


class Bulk:
    """Changes the executions that match a filter, among those that the actor may see.

    Each request looks at a bounded number of them, those with smaller ids than its cursor's. So
    executions that are made meanwhile, repeats among them, are not met. What remains is counted
    before anything is changed: afterwards nothing can fail that would hide what was done.
    """

    def __init__(self, database: Database, cancel: Cancel, plans: SpecCache) -> None:
        """Work on `database`; cancel through `cancel`."""
        self._database = database
        self._cancel = cancel
        self._plans = plans

    def count(self, actor: Actor, wanted: ExecutionFilter, *, cursor: str | None) -> BulkPage:
        """Count what `cancel` or `retry` would look at, and change nothing."""
        page = self._page(replace(wanted, owner_id=actor.scope), read_cursor(_KIND, cursor))
        return replace(page, next_cursor=None)

    def cancel(
        self, actor: Actor, wanted: ExecutionFilter, *, cursor: str | None, limit: int
    ) -> BulkPage:
        """Cancel up to `limit` executions, as `Cancel` does.

        `wanted` is cancellable. Raises ForbiddenError, CursorInvalidError.
        """
        actor.require(Role.OPERATOR)
        before = read_cursor(_KIND, cursor)
        wanted = replace(wanted, owner_id=actor.scope)
        with self._database.statement() as connection:
            ids = queries.find_ids(connection, wanted, before=before, limit=limit)
        page = self._page(wanted, ids[-1] if ids else before)
        return replace(page, execution_ids=self._cancel.those(actor, ids))

    def retry(
        self,
        actor: Actor,
        wanted: ExecutionFilter,
        *,
        cursor: str | None,
        limit: int,
        idempotency: Idempotency | None = None,
    ) -> BulkPage:
        """Run up to `limit` executions again; fewer where they are large or slow to check.

        `wanted` names statuses of executions that have ended. The new ones are a batch, stored in
        one transaction. Nothing is sent yet: call `Dispatch.send_due` afterwards, or leave it to
        the keeper. Raises ForbiddenError, CursorInvalidError, IdempotencyMismatchError, and
        ConflictError where a task is being changed all the time.
        """
        actor.require(Role.OPERATOR)
        before = read_cursor(_KIND, cursor)
        wanted = replace(wanted, owner_id=actor.scope)
        with self._database.statement() as connection:
            key = idempotency and create.find_key(
                connection, owner_id=actor.user_id, key=idempotency.key
            )
            # another request is refused before its work begins
            earlier = same_request(key, idempotency) if key and idempotency else None
            origins = queries.find(
                connection, wanted, before=before, limit=limit, include=("variables",)
            ).items
        for attempt in range(_STALE_PLAN_TRIES):
            if earlier is None:
                checked = self._check(actor, origins, fresh=attempt > 0)
                page = self._page(wanted, checked.last or before)
                page = replace(page, refused=checked.refused)
                if not checked.accepted:
                    return page
                batch_id = uuid7()
                with self._database.transaction() as connection:
                    if idempotency is not None:
                        earlier = claim_key(connection, actor, idempotency, "batch", batch_id)
                    made = None if earlier else _store(connection, actor, checked, batch_id)
                    if made is None:
                        connection.rollback()
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
        """Return the answer of an earlier request; what it refused is not stored but found anew."""
        with self._database.statement() as connection:
            made = queries.origins_of_batch(connection, batch_id, owner=actor.user_id)
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
        """Find what can be run again, the newest first, until that takes too long."""
        plans: dict[object, ExecutionSpec | CeleriacError] = {}
        groups: dict[object, tuple[ExecutionSpec, list[Execution]]] = {}
        refused: dict[UUID, CeleriacError] = {}
        until = time.monotonic() + _CHECK_SECONDS
        last = None
        for origin in origins:
            alike = (origin.task_id, origin.priority, origin.queue, origin.trigger_type,
                     stored_options(origin.options))  # fmt: skip
            if alike not in plans:
                plans[alike] = self._plan(actor, origin, fresh=fresh)
            plan = plans[alike]
            if isinstance(plan, CeleriacError):
                refused[origin.id] = plan
            elif (misfit := _misfit(plan, origin)) is not None:
                refused[origin.id] = misfit
            else:
                groups.setdefault(alike, (plan, []))[1].append(origin)
            last = origin.id
            if time.monotonic() > until:
                break
        # a request that is sent again knows only what was made, so the page ends with that
        accepted = [each.id for _, group in groups.values() for each in group]
        end = min(accepted, default=last)
        kept = {key: why for key, why in refused.items() if end is not None and key >= end}
        return _Checked(list(groups.values()), kept, end)

    def _plan(
        self, actor: Actor, origin: Execution, *, fresh: bool
    ) -> ExecutionSpec | CeleriacError:
        try:
            plan = self._plans.current(origin.task_id, fresh=fresh)
            check_owner(actor, plan)
        except NotFoundError:
            return task_deleted(origin)
        except ConflictError as error:
            return error
        if origin.options.uses_cassette:
            try:
                with self._database.statement() as connection:
                    check_traffic(connection, actor, origin.options, plan.agent.runner)
            except (InvalidInputError, NotFoundError) as error:
                return error
        return plan

    def _page(self, wanted: ExecutionFilter, last: UUID | None) -> BulkPage:
        """Return a page that ends with `last` and has changed nothing yet."""
        with self._database.statement() as connection:
            remaining = queries.count(connection, wanted, before=last, most=_MAX_COUNTED)
        more = last if remaining else None
        return BulkPage(remaining, None if more is None else write_cursor(_KIND, more))


@dataclass(frozen=True, slots=True)
class _Checked:
    """Executions that can be run again, and why others of the page can't."""

    accepted: Sequence[tuple[ExecutionSpec, Sequence[Execution]]]
    """Each group is of one task and differs in its variables alone."""
    refused: Mapping[UUID, CeleriacError]
    last: UUID | None
    """The oldest that the page has: the oldest accepted one, if there is any."""


def _misfit(plan: ExecutionSpec, origin: Execution) -> CeleriacError | None:
    """Return why the variables no longer fit the task. Raises BusyError."""
    try:
        with WorkLimit() as work:
            check_one(plan, origin.variables, work)
    except InvalidInputError as error:
        return error
    return None


def _store(
    connection: Connection, actor: Actor, checked: _Checked, batch_id: UUID
) -> list[UUID] | None:
    """Store the new executions and return their ids; None where a plan is no longer current."""
    made: list[UUID] = []
    for plan, group in checked.accepted:
        origins = group[::-1]  # the oldest first, as they were submitted
        new = new_executions(
            plan,
            request_of(origins[0]),
            [uuid7() for _ in origins],
            [each.variables for each in origins],
            batch_id,
        )
        new = replace(new, origin_ids=[each.id for each in origins])
        if lifecycle.create(connection, new, actor, window=0) is None:
            return None
        made += new.ids
    return made
