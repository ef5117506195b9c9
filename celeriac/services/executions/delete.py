"""Deletes executions that have ended, with all that belongs to them."""

from collections.abc import Iterable, Sequence
from uuid import UUID

import structlog

from celeriac.db import audit, retention
from celeriac.db.engine import Connection
from celeriac.domain.accounts import Actor
from celeriac.kit.files import remove_tree
from celeriac.services.storage_paths import StoragePaths

logger = structlog.get_logger(__name__)


def delete_within(
    connection: Connection, actor: Actor, execution_ids: Sequence[UUID]
) -> dict[UUID, None]:
    """Delete executions in a transaction of the caller; return those that were deleted.

    Those that have not ended stay, and so do those whose parent, run or child has not ended, or
    whose end is still to be delivered to a webhook. Call `remove_files` after the commit.
    """
    gone = retention.deletable(connection, execution_ids)
    if gone:
        retention.delete_executions(connection, gone)
        audit.record(connection, actor, "execution.delete", gone)
    return dict.fromkeys(gone)


def remove_files(places: StoragePaths, execution_ids: Iterable[UUID]) -> None:
    """Remove the directories and logs of deleted executions on this machine.

    Retention removes what can't be removed now, and what other machines have.
    """
    for execution_id in execution_ids:
        remove_tree(places.workdir(execution_id))
        try:
            places.log_file(execution_id).unlink(missing_ok=True)
        except OSError as error:
            logger.warning("execution.files_stay", execution_id=execution_id, error=error.strerror)
        logger.info("execution.deleted", execution_id=execution_id)
