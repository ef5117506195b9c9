"""Gives new limits of a workspace to its live executions; a job of the keeper."""

import structlog

from celeriac.db import limits as rows
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import attach
from celeriac.db.executions.attach import Look, Unlimited
from celeriac.db.executions.create import place_of
from celeriac.domain.errors import InputInvalidError
from celeriac.domain.executions.limits import scope_of
from celeriac.domain.limits import KeyedLimit
from celeriac.domain.workspace_limits import WorkspaceLimit, workspace_limits

logger = structlog.get_logger(__name__)

_AT_ONCE = 200
"""Live executions that one transaction looks at."""


class AttachLimits:
    """Walks over the live executions of workspaces with new limits."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self) -> int:
        """Look at one limit that is new, or deleted; return 1 if there was one.

        One transaction, which a crash leaves to the next call. Raises DatabaseUnavailableError.
        """
        with self._database.transaction() as connection:
            look = attach.claim(connection)
            if look is None:
                return 0
            if look.deleted:
                attach.forget(connection, look)
            else:
                self._walk(connection, look)
        return 1

    def _walk(self, connection: Connection, look: Look) -> None:
        limit = rows.get(connection, look.id, workspace=look.workspace_id)
        ids = attach.live(connection, look, limit=_AT_ONCE)
        if ids and limit is not None:
            found = attach.hold_unlimited(connection, look, ids)
            keyed = [(each.id, own) for each in found for own in _limits_of(limit, each)]
            if keyed:
                attach.attach(connection, keyed, last_place=place_of(0))
                logger.info("limit.attached", limit_id=look.id, count=len(keyed))
        attach.walk_on(connection, look, ids[-1] if len(ids) == _AT_ONCE else None)


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
