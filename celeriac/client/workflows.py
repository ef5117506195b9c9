"""Workflows and their runs."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from celeriac import wire
from celeriac.client.errors import WaitTimeoutError
from celeriac.client.stream import Delta, Stream
from celeriac.client.transport import Resource, given, path
from celeriac.domain.workflows.model import WorkflowSpec

Spec = Mapping[str, Any]

_RUNS = "workflow-runs"


class Workflows(Resource):
    """`client.workflows`. A workflow is named by its id or, if it is yours, by its name."""

    def create(
        self, name: str, spec: WorkflowSpec | Spec, *, description: str = ""
    ) -> wire.Workflow:
        """Create a workflow."""
        body = given(name=name, spec=spec, description=description)
        return self._transport.post(wire.Workflow, path("workflows"), body)

    def get(self, workflow: str | UUID) -> wire.Workflow:
        """Return a workflow."""
        return self._transport.get(wire.Workflow, path("workflows", workflow))

    def list(self) -> Iterator[wire.Workflow]:
        """Yield all workflows that you may see, the newest first."""
        return self._transport.pages(wire.Workflow, path("workflows"))

    def versions(self, workflow: str | UUID) -> Iterator[wire.WorkflowVersion]:
        """Yield the versions of a workflow, the newest first."""
        return self._transport.pages(wire.WorkflowVersion, path("workflows", workflow, "versions"))

    def change(
        self,
        workflow: str | UUID,
        *,
        spec: WorkflowSpec | Spec | None = None,
        description: str | None = None,
    ) -> wire.Workflow:
        """Change what is given. Another `spec` becomes the next version."""
        body = given(spec=spec, description=description)
        return self._transport.patch(wire.Workflow, path("workflows", workflow), body)

    def delete(self, workflow: str | UUID) -> None:
        """Delete a workflow; its runs stay.

        Raises ClientError (`conflict`) while some have not ended.
        """
        self._transport.send("DELETE", path("workflows", workflow))

    def start(
        self,
        workflow: str | UUID,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the API's name
        *,
        priority: str | None = None,
        idempotency_key: str | None = None,
    ) -> wire.AcceptedRun:
        """Start a run in the background; return as soon as it is stored.

        The idempotency key is random if not given, so that a request that is retried starts one
        run.
        """
        body = given(input=dict(input or {}), priority=priority)
        return self._transport.create_work(
            wire.AcceptedRun, path("workflows", workflow, "run"), body, idempotency_key
        )

    def run(
        self,
        workflow: str | UUID,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the API's name
        *,
        priority: str | None = None,
        timeout: float | None = None,
    ) -> wire.Run:
        """Start a run and wait for its end."""
        accepted = self.start(workflow, input, priority=priority)
        return WorkflowRuns(self._transport).wait(accepted.run_id, timeout=timeout)


class WorkflowRuns(Resource):
    """`client.workflow_runs`."""

    def get(self, run_id: str | UUID) -> wire.Run:
        """Return a run with its steps and the numbers of their items."""
        return self._transport.get(wire.Run, path(_RUNS, run_id))

    def list(
        self,
        *,
        workflow: str | UUID | None = None,
        status: str | None = None,
        origin_id: str | UUID | None = None,
        parent_run_id: str | UUID | None = None,
        top_level: bool = False,
        trigger_type: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
    ) -> Iterator[wire.RunSummary]:
        """Yield runs that match all that is given, the newest first.

        `top_level` leaves out those that are items of steps.
        """
        wanted = given(
            workflow=workflow,
            status=status,
            origin_id=origin_id,
            parent_run_id=parent_run_id,
            top_level=True if top_level else None,
            trigger_type=trigger_type,
            created_after=created_after,
            created_before=created_before,
        )
        return self._transport.pages(wire.RunSummary, path(_RUNS), wanted)

    def items(
        self,
        run_id: str | UUID,
        step: str,
        *,
        round: int | None = None,  # noqa: A002 - the API's name
        results: bool = False,
        status: str | None = None,
    ) -> Iterator[wire.RunItem]:
        """Yield the items of a step in their order, with their results if wanted.

        `status` is that of the only items to yield.
        """
        after = -1
        while True:
            asked = given(
                after=after,
                limit=500,
                round=round,
                status=status,
                include=["result"] if results else None,
            )
            found = self._transport.get(
                wire.RunItems, path(_RUNS, run_id, "steps", step, "items"), asked
            )
            yield from found.items
            if found.next_after is None:
                return
            after = found.next_after

    def cancel(self, run_id: str | UUID) -> wire.Run:
        """Request the end of a run and of all below it. Undo tasks are not stopped."""
        return self._transport.post(wire.Run, path(_RUNS, run_id, "cancel"), None)

    def retry(
        self,
        run_id: str | UUID,
        *,
        compensation: bool = False,
        idempotency_key: str | None = None,
    ) -> wire.AcceptedRun:
        """Start a run that repeats only what did not succeed in one that has ended.

        With `compensation` it runs only the undo tasks that failed.
        """
        body = {"compensation": True} if compensation else None
        return self._transport.create_work(
            wire.AcceptedRun, path(_RUNS, run_id, "retry"), body, idempotency_key
        )

    def fork(
        self,
        run_id: str | UUID,
        *,
        step: str | None = None,
        items: Sequence[int] = (),
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the API's name
        results: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> wire.AcceptedRun:
        """Start a run that begins at a step of one that has ended, with the results before it.

        The step may be one of a run below, as in `qualify[3]/enrich`. `items` are the only ones of
        the step, a map, that run again. `input` replaces that of the origin, `results` those of
        steps; neither goes with a path into a run below. Items that keep their results must be the
        same with them as before.
        """
        body = given(
            step=step,
            items=[*items] or None,
            input=None if input is None else dict(input),
            results=None if results is None else dict(results),
        )
        return self._transport.create_work(
            wire.AcceptedRun, path(_RUNS, run_id, "fork"), body, idempotency_key
        )

    def events(self, run_id: str | UUID, *, after: int = 0) -> Iterator[wire.Event]:
        """Yield the existing events of a run with numbers above `after`."""
        while True:
            found = self._transport.get(
                wire.Events, path(_RUNS, run_id, "events"), {"after": after, "limit": 500}
            )
            yield from found.items
            if found.next_after is None:
                return
            after = found.next_after

    def stream(
        self,
        run_id: str | UUID,
        *,
        after: int = 0,
        items: bool = False,
        timeout: float | None = None,
        on_away: Callable[[bool], None] = lambda _: None,
    ) -> Iterator[wire.Event | wire.ItemEnded | Delta]:
        """Yield the events of a run until it has ended; with `items` also each end of an item.

        After a broken connection it resumes with the next event. Raises WaitTimeoutError after
        `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        stream = Stream(
            self._transport.http,
            path(_RUNS, run_id, "stream"),
            after=after,
            items=items,
            on_away=on_away,
        )
        yield from stream.follow(deadline)
        if not stream.ended:
            raise WaitTimeoutError("run", run_id, timeout or 0.0)

    def wait(self, run_id: str | UUID, *, timeout: float | None = None) -> wire.Run:
        """Return the run when it has ended; raises WaitTimeoutError after `timeout` seconds.

        A failed or cancelled run is returned too: check its `status`.
        """
        for _ in self.stream(run_id, timeout=timeout):
            pass
        return self.get(run_id)
