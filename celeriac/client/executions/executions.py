"""Executions: submit, wait, cancel, retry; events, logs and reports."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Unpack
from uuid import UUID, uuid4

from celeriac import wire
from celeriac.client.errors import WaitTimeoutError
from celeriac.client.executions.changes import ExecutionChanges
from celeriac.client.executions.filters import EXECUTIONS, ExecutionOptions, options_body
from celeriac.client.executions.lists import ExecutionLists
from celeriac.client.sessions import Files
from celeriac.client.stream import Delta, LogStream, Stream
from celeriac.client.transport import given, path

_OK = 200
_LONGEST_ANSWER_SECONDS = 86_400.0
"""The longest hard limit of a task."""


class Executions(ExecutionLists, ExecutionChanges):
    """`client.executions`. A task is named by its id or, if it is yours, by its name."""

    def execute(
        self,
        task: str | UUID,
        variables: Mapping[str, Any] | None = None,
        *,
        delay_seconds: float | None = None,
        available_at: datetime | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[ExecutionOptions],
    ) -> wire.Accepted:
        """Run a task in the background; return as soon as the execution is stored.

        `options`: `priority`, `queue`, `session_id`, `fork_session`, `budget`, `record`,
        `repository`, `cassette_id`, `callback_url`, `expires_in`, `expires_at`, `labels`. The
        idempotency key is random if not given, so that a request that is retried runs the task
        once.
        """
        body = given(
            variables=dict(variables or {}),
            execution_mode="async",
            delay_seconds=delay_seconds,
            available_at=available_at,
            **options_body(options),
        )
        return self._transport.create_work(
            wire.Accepted, path("tasks", task, "execute"), body, idempotency_key
        )

    def run(
        self,
        task: str | UUID,
        variables: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        **options: Unpack[ExecutionOptions],
    ) -> wire.Execution:
        """Run a task and wait for its end; the same as `execute` and `wait`."""
        accepted = self.execute(task, variables, **options)
        return self.wait(accepted.execution_id, timeout=timeout)

    def run_sync(
        self,
        task: str | UUID,
        variables: Mapping[str, Any] | None = None,
        **options: Unpack[ExecutionOptions],
    ) -> wire.Execution:
        """Run a task in one request, which the server answers when the execution has ended.

        The server answers after the task's time limits at the latest; after that, this waits on.
        """
        body = given(
            variables=dict(variables or {}), execution_mode="sync", **options_body(options)
        )
        response = self._transport.send(
            "POST",
            path("tasks", task, "execute"),
            body=body,
            headers={"Idempotency-Key": str(uuid4())},
            answer_within=_LONGEST_ANSWER_SECONDS,
        )
        if response.status_code == _OK:
            return wire.Execution.model_validate_json(response.content)
        return self.wait(wire.Accepted.model_validate_json(response.content).execution_id)

    def execute_batch(
        self,
        task: str | UUID,
        items: Sequence[Mapping[str, Any]],
        *,
        priority: str | None = None,
        queue: str | None = None,
        delay_seconds: float | None = None,
        expires_in: float | None = None,
        expires_at: datetime | None = None,
        callback_url: str | None = None,
        labels: Mapping[str, str] | None = None,
        repository: Mapping[str, str] | None = None,
        repositories: Sequence[Mapping[str, str] | None] | None = None,
        idempotency_key: str | None = None,
    ) -> wire.AcceptedBatch:
        """Run a task once for each item of variables, all or none.

        `repository` is for all, `repositories` has one for each item, or None.
        """
        body = given(
            items=[dict(item) for item in items],
            priority=priority,
            queue=queue,
            delay_seconds=delay_seconds,
            expires_in=expires_in,
            expires_at=expires_at,
            callback_url=callback_url,
            labels=labels,
            repository=repository,
            repositories=None if repositories is None else list(repositories),
        )
        return self._transport.create_work(
            wire.AcceptedBatch, path("tasks", task, "execute-batch"), body, idempotency_key
        )

    def get(self, execution_id: str | UUID) -> wire.Execution:
        """Return an execution."""
        return self._transport.get(wire.Execution, path(EXECUTIONS, execution_id))

    def cancel(self, execution_id: str | UUID) -> wire.Execution:
        """Request the end of an execution; a running one stops within seconds."""
        return self._transport.post(wire.Execution, path(EXECUTIONS, execution_id, "cancel"), None)

    def prioritise(self, execution_id: str | UUID, priority: str) -> wire.Execution:
        """Give an execution that has not ended another priority, and return it.

        A pending one takes its new place in its queue at once; a message that is sent keeps its
        place at the broker.
        """
        body = {"priority": priority}
        return self._transport.post(
            wire.Execution, path(EXECUTIONS, execution_id, "prioritise"), body
        )

    def label(self, execution_id: str | UUID, labels: Mapping[str, str | None]) -> wire.Execution:
        """Set labels of an execution, and remove those with None; return the execution."""
        body = {"labels": dict(labels)}
        return self._transport.post(wire.Execution, path(EXECUTIONS, execution_id, "label"), body)

    def move(self, execution_id: str | UUID, to_queue: str) -> wire.Execution:
        """Move an execution that has not ended to another queue, and return it.

        A running attempt is not affected; its retries go to the new queue.
        """
        body = {"to_queue": to_queue}
        return self._transport.post(wire.Execution, path(EXECUTIONS, execution_id, "move"), body)

    def retry(
        self, execution_id: str | UUID, *, idempotency_key: str | None = None
    ) -> wire.Accepted:
        """Run an execution that has ended again, as a new execution."""
        return self._transport.create_work(
            wire.Accepted, path(EXECUTIONS, execution_id, "retry"), None, idempotency_key
        )

    def events(self, execution_id: str | UUID, *, after: int = 0) -> Iterator[wire.Event]:
        """Yield the existing events with numbers above `after`."""
        while True:
            found = self._transport.get(
                wire.Events,
                path(EXECUTIONS, execution_id, "events"),
                {"after": after, "limit": 500},
            )
            yield from found.items
            if found.next_after is None:
                return
            after = found.next_after

    def why(self, execution_id: str | UUID) -> wire.WaitingReasons:
        """Return what an execution waits for, in the order in which that must come to pass."""
        return self._transport.get(wire.WaitingReasons, path(EXECUTIONS, execution_id, "why"))

    def stream(
        self,
        execution_id: str | UUID,
        *,
        after: int = 0,
        timeout: float | None = None,
        on_away: Callable[[bool], None] = lambda _: None,
    ) -> Iterator[wire.Event | Delta]:
        """Yield events and live output until the execution has ended.

        After a broken connection it resumes with the next event. `on_away` is called with True when
        the API stops answering and with False when it answers again. Raises WaitTimeoutError after
        `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        stream = Stream(
            self._transport.http,
            path(EXECUTIONS, execution_id, "stream"),
            after=after,
            on_away=on_away,
        )
        for each in stream.follow(deadline):
            if not isinstance(each, wire.ItemEnded):  # which only runs of workflows have
                yield each
        if not stream.ended:
            raise WaitTimeoutError("execution", execution_id, timeout or 0.0)

    def wait(self, execution_id: str | UUID, *, timeout: float | None = None) -> wire.Execution:
        """Return the execution when it has ended; raises WaitTimeoutError after `timeout` seconds.

        A failed or cancelled execution is returned too: check its `status`.
        """
        for _ in self.stream(execution_id, timeout=timeout):
            pass
        return self.get(execution_id)

    def logs(
        self,
        execution_id: str | UUID,
        *,
        after: str | None = None,
        tail: int | None = None,
        limit: int | None = None,
        level: str | None = None,
    ) -> wire.LogPage:
        """Return log lines after `next_after` of an answer before, or the last `tail` ones.

        Raises ClientError with the code `logs_not_here` if the file is not on the API's machine.
        """
        params = given(after=after, tail=tail, limit=limit, level=level)
        return self._transport.get(wire.LogPage, path(EXECUTIONS, execution_id, "logs"), params)

    def follow_logs(
        self,
        execution_id: str | UUID,
        *,
        after: str | None = None,
        level: str = "debug",
        timeout: float | None = None,
        on_away: Callable[[bool], None] = lambda _: None,
    ) -> Iterator[wire.LogLine]:
        """Yield log lines until the execution has ended; resumes after broken connections.

        Raises WaitTimeoutError after `timeout` seconds. `on_away`: see `stream`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        stream = LogStream(
            self._transport.http,
            path(EXECUTIONS, execution_id, "logs", "stream"),
            after=after,
            params={"level": level},
            on_away=on_away,
        )
        yield from stream.follow(deadline)
        if not stream.ended:
            raise WaitTimeoutError("execution", execution_id, timeout or 0.0)

    def files(self, execution_id: str | UUID) -> Files:
        """Return the files of its own directory: `.list()`, `.download(path, target)`."""
        return Files(self._transport, path(EXECUTIONS, execution_id))

    def report(self, execution_id: str | UUID, *, format: str = "markdown") -> str:  # noqa: A002
        """Return the report of an execution that has ended, as `markdown` or `html`."""
        response = self._transport.send(
            "GET", path(EXECUTIONS, execution_id, "report"), params={"format": format}
        )
        return response.text

    def reports(self, execution_id: str | UUID) -> Sequence[wire.Report]:
        """Return the existing reports of an execution, with their sizes."""
        return self._transport.get(wire.Reports, path(EXECUTIONS, execution_id, "reports")).items
