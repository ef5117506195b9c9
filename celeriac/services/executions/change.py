"""Changes the labels of executions, and the priority and queue of those that have not ended."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import structlog

from celeriac.db import audit
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import change as rows
from celeriac.db.executions import labels as label_rows
from celeriac.db.executions import limits, queries
from celeriac.db.executions.create import place_of
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import ConflictError
from celeriac.domain.executions.model import Execution
from celeriac.domain.labels import relabelled
from celeriac.domain.tasks import Priority
from celeriac.kit.json_types import JsonObject
from celeriac.services.executions.dispatch import Dispatch
from celeriac.services.reading import present

logger = structlog.get_logger(__name__)


class Change:
    """Changes labels, priorities and queues. Safe to share between threads."""

    def __init__(self, database: Database, dispatch: Dispatch) -> None:
        self._database = database
        self._dispatch = dispatch

    def prioritise(self, actor: Actor, execution_id: UUID, priority: Priority) -> Execution:
        """Give an execution another priority; return the execution.

        A pending one takes its new place in its queue at once. A message that is sent keeps its
        place at the broker, and a running attempt is not affected; retries have the new
        priority. Raises NotFoundError, and ConflictError for an execution that has ended.
        """
        with self._database.transaction() as connection:
            _seen(connection, actor, execution_id)
            changed = prioritise_within(connection, actor, [execution_id], priority)
            after = _seen(connection, actor, execution_id)
        _check(after, changed, "get another priority")
        return after

    def move(self, actor: Actor, execution_id: UUID, queue: str) -> Execution:
        """Move an execution to another queue; return the execution.

        It keeps its priority and the time since which it is due. One that is queued is sent to the
        new queue, and its message in the other one claims nothing. A running attempt is not
        affected; retries go to the new queue. Raises NotFoundError, and ConflictError for an
        execution that has ended.
        """
        with self._database.transaction() as connection:
            _seen(connection, actor, execution_id)
            changed = move_within(connection, actor, [execution_id], queue)
            after = _seen(connection, actor, execution_id)
        _check(after, changed, "be moved")
        if not changed:
            return after
        self._dispatch.try_to_send()
        with self._database.autocommit() as connection:
            return _seen(connection, actor, execution_id)

    def label(
        self, actor: Actor, execution_id: UUID, labels: Mapping[str, str | None]
    ) -> Execution:
        """Set labels of an execution, and remove those with None; return the execution.

        Limits by key and rates that it has already are not computed again. Raises NotFoundError,
        and InvalidInputError, which names the label.
        """
        with self._database.transaction() as connection:
            label_within(connection, actor, execution_id, labels)
            return _seen(connection, actor, execution_id)

    def prioritise_those(
        self, actor: Actor, execution_ids: Sequence[UUID], priority: Priority
    ) -> list[UUID]:
        """Give executions that the actor may change another priority; return the changed ones.

        Those that have ended are skipped. Raises ForbiddenError.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            changed = prioritise_within(connection, actor, execution_ids, priority)
        return [each for each in execution_ids if each in changed]

    def move_those(self, actor: Actor, execution_ids: Sequence[UUID], queue: str) -> list[UUID]:
        """Move executions that the actor may change to `queue`; return the moved ones.

        Those that have ended are skipped. Sends nothing: call `Dispatch.try_to_send` afterwards.
        Raises ForbiddenError.
        """
        actor.require(Role.OPERATOR)
        with self._database.transaction() as connection:
            changed = move_within(connection, actor, execution_ids, queue)
        return [each for each in execution_ids if each in changed]


def _seen(connection: Connection, actor: Actor, execution_id: UUID) -> Execution:
    found = queries.get(connection, execution_id, workspace=actor.workspace_id)
    return present(found, "execution", execution_id)


def _check(after: Execution, changed: Mapping[UUID, object], words: str) -> None:
    """Raise ConflictError if nothing was changed because the execution has ended."""
    if not changed and after.status.terminal:
        raise ConflictError(
            f"The execution is {after.status}; only one that has not ended can {words}.",
            status=after.status,
        )


def label_within(
    connection: Connection, actor: Actor, execution_id: UUID, labels: Mapping[str, str | None]
) -> bool:
    """Do in a transaction of the caller what `Change.label` does; return whether that changed any.

    After InvalidInputError nothing is changed, and the transaction can go on.
    """
    found = label_rows.lock(connection, execution_id, workspace=actor.workspace_id)
    before = present(found, "execution", execution_id)
    after = relabelled(before, labels)
    if after == before:
        return False
    label_rows.write(connection, execution_id, after)
    details: JsonObject = {"from": dict(before), "to": dict(after)}
    audit.record(connection, actor, "execution.label", [execution_id], details=details)
    return True


def prioritise_within(
    connection: Connection, actor: Actor, ids: Sequence[UUID], priority: Priority
) -> Mapping[UUID, int]:
    """Do in a transaction of the caller what `prioritise_those` does; return priorities before."""
    changed = rows.set_priority(connection, ids, priority)
    if changed:
        limits.set_place(connection, list(changed), place_of(priority))
    labels = {each: Priority(before).label for each, before in changed.items()}
    _record(connection, actor, "execution.prioritise", labels, priority.label)
    for execution_id, before in labels.items():
        logger.info(
            "execution.prioritised", execution_id=execution_id, before=before, after=priority.label
        )
    return changed


def move_within(
    connection: Connection, actor: Actor, ids: Sequence[UUID], queue: str
) -> Mapping[UUID, str]:
    """Do in a transaction of the caller what `move_those` does; return the queues before."""
    changed = rows.move(connection, ids, queue)
    _record(connection, actor, "execution.move", changed, queue)
    for execution_id, before in changed.items():
        logger.info("execution.moved", execution_id=execution_id, before=before, after=queue)
    return changed


def _record(
    connection: Connection, actor: Actor, action: str, before: Mapping[UUID, str], after: str
) -> None:
    """Write what was changed to the audit trail."""
    by_value: dict[str, list[UUID]] = {}
    for execution_id, value in before.items():
        by_value.setdefault(value, []).append(execution_id)
    for value, ids in by_value.items():
        details: JsonObject = {"from": value, "to": after}
        audit.record(connection, actor, action, ids, details=details)
