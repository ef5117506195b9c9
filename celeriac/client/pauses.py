"""Pauses of the system, of queues, workers, tasks and the workspace."""

from collections.abc import Iterator
from uuid import UUID

from celeriac import wire
from celeriac.client.transport import Resource, given, path

_PAUSES = "pauses"


class Pauses(Resource):
    """`client.pauses`: what may not begin for now."""

    def pause(
        self,
        scope: str,
        *,
        reason: str,
        queue: str | None = None,
        task: str | UUID | None = None,
        worker: str | None = None,
        workflow: str | UUID | None = None,
        limit: str | UUID | None = None,
        key: str | None = None,
    ) -> wire.Pause:
        """Let nothing begin of what is named; what runs continues, and submissions wait.

        `scope` is `system`, `queue` (with `queue`), `task` (with `task`), `workflow` (with
        `workflow`), `workspace`, `limit`
        (with `limit`, of the workspace), `key` (with `key`, of a limit) or `worker` (with `worker`,
        which takes nothing new; other workers go on). If it is paused already, that
        pause is returned as it is.
        """
        body = given(
            scope=scope,
            queue=queue,
            task=task,
            worker=worker,
            workflow=workflow,
            limit=limit,
            key=key,
            reason=reason,
        )
        return self._transport.post(wire.Pause, path(_PAUSES), body)

    def resume(self, pause_id: str | UUID) -> wire.EndedPause:
        """End a pause and return it; what was paused begins in its order.

        Of many executions `left` are still to be released, which the keeper does.
        """
        return self._transport.post(wire.EndedPause, path(_PAUSES, pause_id, "resume"), None)

    def get(self, pause_id: str | UUID) -> wire.Pause:
        """Return a pause that is in force."""
        return self._transport.get(wire.Pause, path(_PAUSES, pause_id))

    def list(self) -> Iterator[wire.Pause]:
        """Yield the pauses of the workspace, queues, workers and the system, the newest first."""
        return self._transport.pages(wire.Pause, path(_PAUSES))
