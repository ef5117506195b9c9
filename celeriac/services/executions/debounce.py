"""Debounce: the newest of several submissions with one key runs alone, after a pause.

The items of a batch are debounced one after the other, as if each were submitted by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from celeriac.db.engine import Connection
from celeriac.db.executions import debounces, lifecycle
from celeriac.db.executions.debounces import Waiting
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

    What has begun, or is due, is not replaced. A batch whose items have different delays has an
    audit entry for those of each. Needs a transaction. Raises StaleSpecError as `create` does.
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
    messages: list[QueuedMessage] = []
    for (delay, replaced), indexes in _by_delay(wanted, lines).items():
        options = new.request.options.model_copy(update={"replaced": replaced})
        some = replace(
            new,
            ids=[new.ids[index] for index in indexes],
            variables=[new.variables[index] for index in indexes],
            request=replace(new.request, delay_seconds=delay, options=options),
        )
        messages += lifecycle.create(connection, some, actor, window=window)
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


def _by_delay(wanted: Debounce, lines: Sequence[_Line]) -> dict[tuple[float, int], list[int]]:
    """Return which of the new ones wait how long and have replaced how many, in their order.

    Those that are replaced at once are one group, so a key with many items costs no more.
    """
    found = dict.fromkeys((index for line in lines for index in line.indexes), (wanted.seconds, 0))
    found |= {line.indexes[-1]: (_delay(wanted, line), line.replaced) for line in lines}
    of: dict[tuple[float, int], list[int]] = {}
    for index, each in sorted(found.items()):
        of.setdefault(each, []).append(index)
    return of


def _delay(wanted: Debounce, line: _Line) -> float:
    return wanted.delay(0.0 if line.after is None else line.after.waited)


def _message(newer: UUID, key: str) -> str:
    return f"The newer execution {newer} has the same debounce key {key!r}, and waits instead."


def _crowd_out(connection: Connection, messages: Mapping[UUID, str]) -> list[UUID]:
    return lifecycle.crowd_out(connection, messages, held=Held.TIME, code=LimitEnd.SUPERSEDED.value)
