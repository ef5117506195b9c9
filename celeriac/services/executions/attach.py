"""Gives new limits of a workspace to its live executions; a job of the keeper."""

import structlog

from celeriac.db import limits as rows
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import attach
from celeriac.db.executions.attach import Look, Unlimited
from celeriac.db.executions.create import place_of
from celeriac.domain.errors import (
    DatabaseBusyError,
    DatabaseTimeoutError,
    DatabaseUnavailableError,
    InputInvalidError,
)
from celeriac.domain.executions.limits import scope_of
from celeriac.domain.limits import KeyedLimit
from celeriac.domain.workspace_limits import WorkspaceLimit, workspace_limits

logger = structlog.get_logger(__name__)

_AT_ONCE = 200
"""Live executions that one transaction looks at."""

_MOST_BYTES = 256_000
"""Of the variables, as stored, that it reads; those of one execution in any case."""

_AGAIN_SECONDS = 30.0
"""After which a limit is looked at again whose walk has failed."""


class AttachLimits:
    """Walks over the live executions of workspaces with new limits."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self) -> int:
        """Look at one limit that is new, or deleted; return 1 if there was one.

        One transaction, which a crash leaves to the next call. Limits take turns; one that fails is
        looked at later, and does not hold up the others. Raises DatabaseUnavailableError.
        """
        look: Look | None = None
        try:
            with self._database.transaction() as connection:
                look = attach.claim(connection)
                if look is None:
                    return 0
                if look.deleted:
                    attach.forget(connection, look)
                else:
                    self._walk(connection, look)
        except Exception as error:
            if look is None or _concerns_all(error):
                raise
            logger.exception("limit.not_attached", limit_id=look.id, again_in=_AGAIN_SECONDS)
            with self._database.transaction() as connection:
                attach.postpone(connection, look.id, seconds=_AGAIN_SECONDS)
        return 1

    def _walk(self, connection: Connection, look: Look) -> None:
        limit = rows.get(connection, look.id, workspace=look.workspace_id)
        ids = attach.live(connection, look, limit=_AT_ONCE)
        more = len(ids) == _AT_ONCE
        if ids and limit is not None:
            names = limit.names("variables")
            if names:
                looked_at = attach.within(connection, ids, most_bytes=_MOST_BYTES)
                ids, more = looked_at, more or len(looked_at) < len(ids)
            found = attach.hold_unlimited(connection, look, ids, with_variables=names)
            keyed = [(each.id, own) for each in found for own in _limits_of(limit, each)]
            if keyed:
                attach.attach(connection, keyed, last_place=place_of(0))
                logger.info("limit.attached", limit_id=look.id, count=len(keyed))
        attach.walk_on(connection, look, ids[-1] if more else None)


def _concerns_all(error: Exception) -> bool:
    """Whether the database can't be reached, or can't write; not just one statement failed."""
    return isinstance(error, DatabaseUnavailableError) and not isinstance(
        error, DatabaseBusyError | DatabaseTimeoutError
    )


def _limits_of(limit: WorkspaceLimit, execution: Unlimited) -> list[KeyedLimit]:
    """Return the limit with the key of an execution; nothing if it is not about it."""
    scope = scope_of(
        execution.task_name,
        execution.variables,
        execution.labels,
        user_id=execution.owner_id,
        workspace_id=limit.workspace_id,
    )
    try:
        return workspace_limits([limit], scope, workflow_id=limit.workflow_id)
    except InputInvalidError:  # it was accepted: it is not refused now
        return []
