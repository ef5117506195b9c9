"""Runs executions that have ended again: one, or many in one transaction."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import structlog
from sqlalchemy import Connection

from celeriac.db.engine import Database
from celeriac.db.executions import lifecycle, queries
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import CeleriacError, ConflictError, InvalidInputError, NotFoundError
from celeriac.domain.executions.model import Execution, ExecutionSpec, stored_options
from celeriac.domain.prompts import WorkLimit
from celeriac.kit.ids import uuid7
from celeriac.services.cassettes import check_traffic
from celeriac.services.catalog.plans import SpecCache
from celeriac.services.executions.submit import (
    Idempotency,
    Submit,
    SubmitRequest,
    Submitted,
    check_one,
    check_owner,
    claim_key,
    new_executions,
)

logger = structlog.get_logger(__name__)

_STALE_PLAN_TRIES = 3


class Replay:
    """Runs one execution again."""

    def __init__(self, database: Database, submit: Submit) -> None:
        """Read from `database`, submit through `submit`."""
        self._database = database
        self._submit = submit

    def __call__(
        self, actor: Actor, execution_id: UUID, idempotency: Idempotency | None = None
    ) -> Submitted:
        """Submit a new execution with the variables of a finished one and the task as it is now.

        Raises NotFoundError, ConflictError while the origin still runs, and what submitting raises.
        """
        with self._database.statement() as connection:
            origin = queries.get(connection, execution_id, owner=actor.scope)
        if origin is None:
            raise NotFoundError("execution", execution_id)
        if not origin.status.terminal:
            raise ConflictError(
                f"The execution is {origin.status}; only a finished one can be run again. "
                "Cancel it first.",
                status=origin.status,
            )
        try:
            return self._submit.one(actor, replace(_request(origin), idempotency=idempotency))
        except NotFoundError as error:
            if error.details["resource"] != "task":
                raise
            raise _task_deleted(origin) from error


@dataclass(frozen=True, slots=True)
class Replayed:
    """New executions of one batch, by their origins; `refused` says why others were not made.

    Without a batch nothing was stored. Where an idempotency key found an earlier batch, `created`
    is False and the rest is left out.
    """

    batch_id: UUID | None
    execution_ids: Mapping[UUID, UUID] = field(default_factory=dict)
    refused: Mapping[UUID, CeleriacError] = field(default_factory=dict)
    created: bool = True


class ReplayMany:
    """Runs many executions again."""

    def __init__(self, database: Database, plans: SpecCache) -> None:
        """Work on `database`."""
        self._database = database
        self._plans = plans

    def __call__(
        self, actor: Actor, origins: Sequence[Execution], idempotency: Idempotency | None = None
    ) -> Replayed:
        """Store a new execution for each of `origins` for which that is possible.

        The origins have ended and were read with their variables. All is stored in one transaction,
        with one statement for those that differ in their variables alone. Nothing is sent yet: call
        `Dispatch.send_due` afterwards, or leave it to the keeper. Raises IdempotencyMismatchError,
        and ConflictError where a task is being changed all the time.
        """
        batch_id = uuid7()
        for attempt in range(_STALE_PLAN_TRIES):
            groups, refused = self._checked(actor, origins, fresh=attempt > 0)
            if not groups:
                return Replayed(None, refused=refused)
            try:
                with self._database.transaction() as connection:
                    if idempotency is not None:
                        earlier = claim_key(connection, actor, idempotency, "batch", batch_id)
                        if earlier is not None:
                            return Replayed(earlier, created=False)
                    made = _store(connection, actor, groups, batch_id, refused)
                    if not made:
                        connection.rollback()  # nothing was made: the key stays free
            except _StalePlanError:
                continue
            if not made:
                return Replayed(None, refused=refused)
            logger.info("batch.created", batch_id=batch_id, count=len(made))
            return Replayed(batch_id, made, refused)
        raise ConflictError("A task is being changed; send the request again.")

    def _checked(
        self, actor: Actor, origins: Sequence[Execution], *, fresh: bool
    ) -> tuple[list["_Group"], dict[UUID, CeleriacError]]:
        """Return what can be run, by what one statement stores, and why the rest can not."""
        alike = defaultdict[object, list[Execution]](list)
        for origin in origins:
            alike[_address(origin)].append(origin)
        groups: list[_Group] = []
        refused: dict[UUID, CeleriacError] = {}
        for members in alike.values():
            try:
                plan = self._plans.current(members[0].task_id, fresh=fresh)
                check_owner(actor, plan)
            except NotFoundError:
                refused |= {each.id: _task_deleted(each) for each in members}
            except ConflictError as error:
                refused |= dict.fromkeys([each.id for each in members], error)
            else:
                accepted = _accepted(plan, members, refused)
                groups += [_Group(plan, accepted)] if accepted else []
        return groups, refused


@dataclass(frozen=True, slots=True)
class _Group:
    """Executions of one task that differ in their variables alone."""

    plan: ExecutionSpec
    origins: Sequence[Execution]


class _StalePlanError(Exception):
    """The plan that was checked is no longer the current one."""


def _address(origin: Execution) -> object:
    return (
        origin.task_id,
        origin.priority,
        origin.queue,
        origin.trigger_type,
        stored_options(origin.options),
    )


def _accepted(
    plan: ExecutionSpec, origins: Sequence[Execution], refused: dict[UUID, CeleriacError]
) -> list[Execution]:
    """Return those whose variables still fit the task; the others are added to `refused`."""
    accepted = []
    with WorkLimit(len(origins)) as work:
        for origin in origins:
            try:
                check_one(plan, origin.variables, work)
            except InvalidInputError as error:
                refused[origin.id] = error
            else:
                accepted.append(origin)
    return accepted


def _store(
    connection: Connection,
    actor: Actor,
    groups: Sequence[_Group],
    batch_id: UUID,
    refused: dict[UUID, CeleriacError],
) -> dict[UUID, UUID]:
    """Store what can be stored, and return the new ids by their origins; adds to `refused`.

    Raises _StalePlanError.
    """
    made: dict[UUID, UUID] = {}
    for group in groups:
        origins = [each.id for each in group.origins]
        request = _request(group.origins[0])
        if request.options.uses_cassette:
            try:
                check_traffic(connection, actor, request.options, group.plan.agent.runner)
            except (InvalidInputError, NotFoundError) as error:
                refused |= dict.fromkeys(origins, error)
                continue
        ids = [uuid7() for _ in origins]
        variables = [each.variables for each in group.origins]
        new = new_executions(group.plan, request, ids, variables, batch_id)
        new = replace(new, origin_ids=origins)
        if lifecycle.create(connection, new, actor, window=0) is None:
            raise _StalePlanError
        made |= zip(origins, ids, strict=True)
    return made


def _request(origin: Execution) -> SubmitRequest:
    """Return what runs an execution's work again, from the beginning and in no session."""
    return SubmitRequest(
        task_id=origin.task_id,
        variables=origin.variables,
        priority=origin.priority,
        queue=origin.queue,
        trigger_type=origin.trigger_type,
        origin_id=origin.id,
        options=origin.options.model_copy(update={"fork_session": False}),
    )


def _task_deleted(origin: Execution) -> ConflictError:
    return ConflictError(
        f"The task {origin.task_name!r} of this execution was deleted; run another one."
    )
