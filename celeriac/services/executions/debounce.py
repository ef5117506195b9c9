"""Debounce: the newest of several submissions runs alone, after a pause."""

from dataclasses import replace
from uuid import UUID

from celeriac.db.engine import Connection
from celeriac.db.executions import debounces, lifecycle
from celeriac.db.executions.lifecycle import NewExecutions
from celeriac.domain.accounts import Actor
from celeriac.domain.executions.limits import debounce_key
from celeriac.domain.executions.states import Held
from celeriac.domain.limits import LimitEnd


def debounce(
    connection: Connection, actor: Actor, new: NewExecutions
) -> tuple[NewExecutions, UUID | None]:
    """Return a new execution with its delay, and the one that it has replaced. In a transaction.

    What has begun, or is due, is not replaced.
    """
    wanted = new.spec.task.debounce
    task_id, execution_id = new.spec.task_id, new.ids[0]
    ids = {"user_id": actor.user_id, "workspace_id": actor.workspace_id}
    key = debounce_key(new.spec, new.variables[0], new.request.labels, **ids)
    assert wanted is not None
    assert key is not None
    debounces.lock(connection, task_id, key)
    earlier = debounces.find(connection, task_id, key)
    if earlier is not None and not lifecycle.crowd_out(
        connection,
        earlier.execution_id,
        held=Held.TIME,
        code=LimitEnd.SUPERSEDED.value,
        message=f"The newer execution {execution_id} has the same debounce key {key!r}, and "
        "waits instead.",
    ):
        earlier = None
    delay = wanted.delay(0.0 if earlier is None else earlier.waited)
    debounces.put(connection, task_id, key, execution_id, after=earlier, delay=delay)
    replaced = 0 if earlier is None else earlier.replaced + 1
    options = new.request.options.model_copy(update={"replaced": replaced})
    request = replace(new.request, delay_seconds=delay, options=options)
    return replace(new, request=request), None if earlier is None else earlier.execution_id
