"""Bulk jobs."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Unpack
from uuid import UUID

from celeriac import wire
from celeriac.client.errors import WaitTimeoutError
from celeriac.client.executions import LiveFilter, filter_fields
from celeriac.client.transport import Resource, given, path
from celeriac.kit.backoff import grown

_JOBS = "bulk-jobs"
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
"""Seconds between two looks at a job: each pause is longer than the one before."""


class BulkJobs(Resource):
    """`client.bulk_jobs`: one action for many executions, in the background."""

    def preview(
        self,
        action: str,
        *,
        priority: str | None = None,
        to_queue: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        limit: int | None = None,
        **wanted: Unpack[LiveFilter],
    ) -> wire.BulkPreview:
        """Select executions and return what a job would do; nothing is changed.

        `action` is `cancel`, `retry`, `replay`, `prioritise` (with `priority`), `move` (with
        `to_queue`), `label` (with `labels`; None removes one) or `delete`. `wanted` is as in
        `client.executions.list`, and `queue` for executions that have not ended; at least one is
        needed. The newest that match are selected, at most `limit`, which is at most 100,000.
        """
        body = given(
            action=action,
            filter=filter_fields(wanted),
            priority=priority,
            to_queue=to_queue,
            labels=None if labels is None else dict(labels),
            limit=limit,
        )
        return self._transport.post(wire.BulkPreview, path(_JOBS), body)

    def start(self, job_id: str | UUID) -> wire.BulkJob:
        """Start a preview: exactly the executions that it has selected are changed, once."""
        # a second request changes nothing, so it is sent again if its answer is lost
        return self._transport.create_work(wire.BulkJob, path(_JOBS, job_id, "start"), None, None)

    def stop(self, job_id: str | UUID) -> wire.BulkJob:
        """Stop a job after its present batch; what was done stays."""
        return self._transport.post(wire.BulkJob, path(_JOBS, job_id, "stop"), None)

    def get(self, job_id: str | UUID) -> wire.BulkJob:
        """Return a job with its progress."""
        return self._transport.get(wire.BulkJob, path(_JOBS, job_id))

    def list(self) -> Iterator[wire.BulkJob]:
        """Yield the started jobs of the workspace, the newest first."""
        return self._transport.pages(wire.BulkJob, path(_JOBS))

    def items(
        self, job_id: str | UUID, *, outcome: str | Sequence[str] | None = None
    ) -> Iterator[wire.BulkItem]:
        """Yield what became of the executions of a job, the newest of them first.

        `outcome` is one or several of `done`, `skipped` and `failed`.
        """
        wanted = given(outcome=[outcome] if isinstance(outcome, str) else outcome)
        return self._transport.pages(wire.BulkItem, path(_JOBS, job_id, "items"), wanted)

    def wait(
        self,
        job_id: str | UUID,
        *,
        timeout: float | None = None,
        on_progress: Callable[[wire.BulkJob], object] = lambda _: None,
    ) -> wire.BulkJob:
        """Return the job when it has ended; raises WaitTimeoutError after `timeout` seconds.

        A stopped or failed job is returned too: check its `status`. `on_progress` is called with
        the job each time that it was looked at.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        looks = 0
        while True:
            found = self.get(job_id)
            on_progress(found)
            if found.status.terminal:
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                raise WaitTimeoutError("bulk job", job_id, timeout or 0.0)
            time.sleep(min(grown(_FIRST_PAUSE, looks / 4, _LONGEST_PAUSE), left))
            looks += 1
