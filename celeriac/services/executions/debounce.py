"""Debounce: the newest of several submissions with one key runs alone, after a pause.

The items of a batch are debounced one after the other, as if each were submitted by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from celeriac.db.engine import Connection
from celeriac.db.executions import debounces, lifecycle
from celeriac.db.executions.debounces import Wait, Waiting
from celeriac.db.executions.lifecycle import NewExecutions
from celeriac.domain.accounts import Actor
from celeriac.domain.executions.limits import debounce_key
from celeriac.domain.executions.model import QueuedMessage
from celeriac.domain.executions.states import Held
from celeriac.domain.limits import Debounce, LimitEnd


@dataclass(frozen=True, slots=True)
class _Line:
    """The new executions with one key, in their order, and the stored one that they replace."""

    key: str
    indexes: Sequence[int]
    """Of the new ones: the last of them waits, the others are replaced."""
    after: Waiting | None

    @property
    def replaced(self) -> int:
        """How many the last one has replaced."""
        before = 0 if self.after is None else self.after.replaced + 1
        return before + len(self.indexes) - 1


def create_debounced(
    connection: Connection, actor: Actor, new: NewExecutions, *, window: int
) -> tuple[list[QueuedMessage], list[UUID]]:
    """Store new executions with their delays; return what to send, and what was replaced.

    What has begun, or is due, is not replaced. Needs a transaction. Raises StaleSpecError as
    `create` does.
    """
    wanted = new.spec.task.debounce
    assert wanted is not None
    ids = {"user_id": actor.user_id, "workspace_id": actor.workspace_id}
    of_key: dict[str, list[int]] = {}
    for index, variables in enumerate(new.variables):
        key = debounce_key(new.spec, variables, new.request.labels, **ids)
        assert key is not None
        of_key.setdefault(key, []).append(index)
    debounces.lock(connection, new.spec.task_id, list(of_key))
    earlier = debounces.find(connection, new.spec.task_id, list(of_key))
    gone = _crowd_out(
        connection,
        {
            found.execution_id: _message(new.ids[of_key[key][-1]], key)
            for key, found in earlier.items()
        },
    )
    replaced_ids = frozenset(gone)
    lines = [
        _Line(key, indexes, found if found and found.execution_id in replaced_ids else None)
        for key, indexes in of_key.items()
        for found in (earlier.get(key),)
    ]
    messages = _create(connection, actor, new, wanted, lines, window=window)
    gone += _crowd_out(
        connection,
        {
            new.ids[index]: _message(new.ids[line.indexes[-1]], line.key)
            for line in lines
            for index in line.indexes[:-1]
        },
    )
    debounces.put(
        connection,
        new.spec.task_id,
        [
            debounces.Put(
                line.key,
                new.ids[line.indexes[-1]],
                None if line.after is None else line.after.first_at,
                line.replaced,
                _delay(wanted, line),
            )
            for line in lines
        ],
    )
    return messages, gone


def _create(
    connection: Connection,
    actor: Actor,
    new: NewExecutions,
    wanted: Debounce,
    lines: Sequence[_Line],
    *,
    window: int,
) -> list[QueuedMessage]:
    """Store the new ones; those that wait otherwise than most are corrected together."""
    last = {new.ids[line.indexes[-1]]: Wait(_delay(wanted, line), line.replaced) for line in lines}
    usual, others = Wait(wanted.seconds, 0), set(last.values())
    if len(last) == len(new.ids) and len(others) == 1:
        (usual,) = others
    options = new.request.options.model_copy(update={"replaced": usual.replaced})
    request = replace(new.request, delay_seconds=usual.delay, options=options)
    made = lifecycle.create(connection, replace(new, request=request), actor, window=window)
    debounces.correct(connection, {id_: wait for id_, wait in last.items() if wait != usual})
    return made


def _delay(wanted: Debounce, line: _Line) -> float:
    return wanted.delay(0.0 if line.after is None else line.after.waited)


def _message(newer: UUID, key: str) -> str:
    return f"The newer execution {newer} has the same debounce key {key!r}, and waits instead."


def _crowd_out(connection: Connection, messages: Mapping[UUID, str]) -> list[UUID]:
    return lifecycle.crowd_out(connection, messages, held=Held.TIME, code=LimitEnd.SUPERSEDED.value)
