"""Repeats many executions: checks them, and stores the new ones in a transaction of the caller."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from celeriac.db.engine import Connection, Database
from celeriac.db.executions import lifecycle
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import CeleriacError, ConflictError, InvalidInputError, NotFoundError
from celeriac.domain.executions.model import Execution, ExecutionSpec
from celeriac.domain.executions.options import stored_options
from celeriac.domain.prompts import WorkLimit
from celeriac.kit.ids import uuid7
from celeriac.services.cassettes import check_traffic
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.executions.submit import check_one, request_of, task_deleted
from celeriac.services.repositories import check_choice

_CHECK_SECONDS = 5.0
"""The time after which a check ends, so that clients get an answer in time."""

Groups = Sequence[tuple[ExecutionSpec, Sequence[Execution]]]
"""Executions to repeat; each group is of one task and differs only in its variables."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Executions that can be repeated, and the errors of others."""

    accepted: Groups
    refused: Mapping[UUID, CeleriacError]
    looked: int
    """How many were checked, from the first."""


class Repeat:
    """Checks whether executions can be repeated. Safe to share between threads."""

    def __init__(self, database: Database, specs: SpecCache) -> None:
        self._database = database
        self._specs = specs

    def check(self, actor: Actor, origins: Sequence[Execution], *, fresh: bool = False) -> Checked:
        """Check which of ended executions can be repeated, until this takes too long.

        They are checked in their order, the newest first. With `fresh` specifications are not taken
        from the cache.
        """
        specs: dict[object, ExecutionSpec | CeleriacError] = {}
        groups: dict[object, tuple[ExecutionSpec, list[Execution]]] = {}
        refused: dict[UUID, CeleriacError] = {}
        until = time.monotonic() + _CHECK_SECONDS
        looked = 0
        for origin in origins:
            alike = (origin.task_id, origin.priority, origin.queue, origin.trigger_type,
                     stored_options(origin.options), tuple(origin.labels.items()))  # fmt: skip
            if alike not in specs:
                specs[alike] = self._spec(actor, origin, fresh=fresh)
            spec = specs[alike]
            if isinstance(spec, CeleriacError):
                refused[origin.id] = spec
            elif (misfit := _misfit(spec, origin)) is not None:
                refused[origin.id] = misfit
            else:
                groups.setdefault(alike, (spec, []))[1].append(origin)
            looked += 1
            if time.monotonic() > until:
                break
        return Checked(list(groups.values()), refused, looked)

    def _spec(
        self, actor: Actor, origin: Execution, *, fresh: bool
    ) -> ExecutionSpec | CeleriacError:
        try:
            spec = self._specs.current(origin.task_id, workspace=actor.workspace_id, fresh=fresh)
        except NotFoundError:
            return task_deleted(origin)
        except ConflictError as error:
            return error
        try:
            check_choice(spec.task, origin.options)
        except InvalidInputError as error:
            return error
        if origin.options.uses_cassette:
            try:
                with self._database.autocommit() as connection:
                    check_traffic(connection, actor, origin.options, spec.agent.runner)
            except (InvalidInputError, NotFoundError) as error:
                return error
        return spec


def _misfit(spec: ExecutionSpec, origin: Execution) -> CeleriacError | None:
    """Return the error if the task can no longer run with what it was given. Raises BusyError."""
    try:
        with WorkLimit() as work:
            check_one(spec, origin.variables, work, origin.labels, origin.options)
    except InvalidInputError as error:
        return error
    return None


def store(
    connection: Connection, actor: Actor, accepted: Groups, batch_id: UUID
) -> dict[UUID, UUID]:
    """Store the new executions of a batch; return their ids by those of their origins.

    Raises StaleSpecError.
    """
    made: dict[UUID, UUID] = {}
    for spec, group in accepted:
        origins = group[::-1]  # the oldest first, as they were submitted
        ids = [uuid7() for _ in origins]
        new = lifecycle.NewExecutions(
            spec,
            request_of(origins[0]),
            ids,
            [each.variables for each in origins],
            [each.id for each in origins],
            batch_id,
        )
        lifecycle.create(connection, new, actor, window=0)
        made |= dict(zip((each.id for each in origins), ids, strict=True))
    return made
