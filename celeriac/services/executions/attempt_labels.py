"""Changes of the labels of an execution by its agent, as it runs."""

import asyncio
from collections.abc import Mapping
from typing import Final

from celeriac.db.executions import labels as rows
from celeriac.domain.errors import InvalidInputError, LeaseLostError
from celeriac.domain.labels import Labels, checked_changes, relabelled
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.services.executions.attempt import Attempt
from celeriac.services.executions.steps import StepStore
from celeriac.services.retrying import retry_until_stored_in

MOST_CHANGES: Final = 200
"""How often one attempt may change labels: each change is an event, which is kept."""

_DATABASE_SECONDS = 60.0


class AttemptLabels:
    """The labels of the execution of one attempt."""

    def __init__(self, store: StepStore, attempt: Attempt) -> None:
        self._store = store
        self._attempt = attempt
        self._changes = 0
        # they would wait for the same row, each with a connection, and are counted
        self._one_at_a_time = asyncio.Lock()

    async def change(self, changes: Mapping[str, JsonValue]) -> Labels:
        """Set labels, and remove those with None; return those that the execution has then.

        Labels that it has already are no change, and give no event. Raises InvalidInputError, which
        names the label, and LeaseLostError.
        """
        wanted = checked_changes(changes)
        async with self._one_at_a_time:
            return await self._change(wanted)

    async def _change(self, wanted: Mapping[str, str | None]) -> Labels:
        self._attempt.expect_rows()
        database, lease = self._store.database, self._attempt.lease
        may_change = self._changes < MOST_CHANGES

        def change() -> tuple[Labels, bool]:
            with database.transaction() as connection:
                before = rows.lock_held(connection, lease)
                if before is None:
                    raise LeaseLostError("This worker no longer owns the attempt.")
                after = relabelled(before, wanted)
                if after == before:
                    return after, False
                if not may_change:
                    raise InvalidInputError(
                        f"This attempt has changed its labels {MOST_CHANGES} times, the most. "
                        "Report what changes often with ctx.progress or ctx.emit.",
                        field="labels",
                    )
                rows.write(connection, lease.execution_id, after, event=_event(before, after))
                return after, True

        labels, changed = await retry_until_stored_in(
            database.threads, change, seconds=_DATABASE_SECONDS
        )
        if changed:
            self._changes += 1
            self._store.live.changed([lease.execution_id])
        return labels


def _event(before: Labels, after: Labels) -> JsonObject:
    return {"from": dict(before), "to": dict(after)}
