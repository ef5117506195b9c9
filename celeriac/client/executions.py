"""Executions over HTTP: submit, wait, list, cancel, events; and options of a run."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict, Unpack, cast
from uuid import UUID, uuid4

from celeriac import wire
from celeriac.client.errors import WaitTimeoutError
from celeriac.client.resources import given, pages
from celeriac.client.sessions import Files
from celeriac.client.stream import Delta, Stream
from celeriac.client.transport import API, Transport, segment
from celeriac.domain.budgets import Budget


class ExecutionOptions(TypedDict, total=False):
    """Options of a run; each may be left out."""

    priority: str | None
    queue: str | None
    session_id: str | UUID | None
    """An earlier session to go on with."""
    fork_session: bool
    """Go on with a copy of it, which leaves it as it is."""
    budget: Budget | Mapping[str, Any] | None
    """Instead of the task's: `max_cost`, `max_tokens`, `on_budget`."""
    record: bool
    """Save the model traffic as a cassette."""
    cassette_id: str | UUID | None
    """Answer model requests from this cassette."""


class ExecutionFilter(TypedDict, total=False):
    """Selects the executions that match all given values."""

    ids: Sequence[str | UUID] | None
    """From 1 to 100."""
    status: str | Sequence[str] | None
    task: str | UUID | None
    agent: str | UUID | None
    """Any of its versions."""
    batch_id: str | UUID | None
    origin_id: str | UUID | None
    """Repeats of this execution."""
    session_id: str | UUID | None
    trigger_type: str | None
    waiting_for: str | None
    """`approval`, `budget` or `provider_limit`."""
    error_code: str | None
    """The code of the last error, such as `agent_failed`."""
    created_after: datetime | None
    """At or after this time, which has a zone."""
    created_before: datetime | None


def filter_fields(wanted: ExecutionFilter) -> dict[str, Any]:
    """Return the fields or parameters of a request for `wanted`.

    Raises ValueError for empty `ids`, which must not select everything.
    """
    fields: dict[str, Any] = {}
    for name, value in wanted.items():
        if name == "ids" and value is not None:
            if not value:
                raise ValueError("ids is empty; name at least one, or omit it for all.")
            fields["id"] = [str(each) for each in cast(Sequence[str | UUID], value)]
        elif name == "status" and isinstance(value, str):
            fields["status"] = [value]
        elif isinstance(value, datetime):
            fields[name] = value.isoformat()
        elif isinstance(value, UUID):
            fields[name] = str(value)
        elif value is not None:
            fields[name] = value
    return fields


def options_body(options: ExecutionOptions) -> dict[str, Any]:
    """Return the fields of a request for `options`; those that are not set are left out."""
    body: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, UUID):
            body[name] = str(value)
        elif isinstance(value, Budget):
            body[name] = value.model_dump(mode="json", exclude_none=True)
        elif value is not None and value is not False:
            body[name] = value
    return body


_PATH = f"{API}/task-executions"
_PAGE = 500
"""The most executions that one request changes."""
OnPage = Callable[[wire.BulkResult], object] | None
_OK = 200
_LONGEST_ANSWER_SECONDS = 86_400.0
"""A task's hard limit at the most."""


class Executions:
    """`client.executions`. A task is named by its id or, if it is one's own, by its name."""

    def __init__(self, transport: Transport) -> None:
        """Send through `transport`."""
        self._transport = transport

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
        `cassette_id`. Without a key of the caller's one is made up, so that a repeated request runs
        it once.
        """
        body = given(
            variables=dict(variables or {}),
            execution_mode="async",
            delay_seconds=delay_seconds,
            available_at=None if available_at is None else available_at.isoformat(),
            **options_body(options),
        )
        path = f"{API}/tasks/{segment(task)}/execute"
        return self._transport.create_work(wire.Accepted, path, body, idempotency_key)

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

        The server bounds it by the task's time limits; what hasn't ended by then is waited for.
        """
        body = given(
            variables=dict(variables or {}), execution_mode="sync", **options_body(options)
        )
        response = self._transport.send(
            "POST",
            f"{API}/tasks/{segment(task)}/execute",
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
        idempotency_key: str | None = None,
    ) -> wire.AcceptedBatch:
        """Run a task once for each item of variables, all or none."""
        body = given(
            items=[dict(item) for item in items],
            priority=priority,
            queue=queue,
            delay_seconds=delay_seconds,
        )
        path = f"{API}/tasks/{segment(task)}/execute-batch"
        return self._transport.create_work(wire.AcceptedBatch, path, body, idempotency_key)

    def get(self, execution_id: str | UUID) -> wire.Execution:
        """Return an execution as it stands."""
        return self._transport.get(wire.Execution, f"{_PATH}/{segment(execution_id)}")

    def list(
        self,
        *,
        include: Sequence[str] | None = None,
        **wanted: Unpack[ExecutionFilter],
    ) -> Iterator[wire.ExecutionSummary]:
        """Yield executions, the newest first, reading page after page.

        `wanted`: `ids`, `status`, `task`, `agent`, `batch_id`, `origin_id`, `session_id`,
        `trigger_type`, `waiting_for`, `error_code`, `created_after`, `created_before`. `include`
        names what may be large and is None otherwise: `variables`, `result`, `error_details`.
        `get` returns an execution with all of it.
        """
        params = filter_fields(wanted) | given(include=None if include is None else list(include))
        return pages(self._transport, wire.ExecutionSummary, _PATH, params)

    def cancel(self, execution_id: str | UUID) -> wire.Execution:
        """Ask for its end; a running one stops within seconds."""
        return self._transport.post(wire.Execution, f"{_PATH}/{segment(execution_id)}/cancel", None)

    def retry(
        self, execution_id: str | UUID, *, idempotency_key: str | None = None
    ) -> wire.Accepted:
        """Run the work of one that has ended again, as a new execution."""
        path = f"{_PATH}/{segment(execution_id)}/retry"
        return self._transport.create_work(wire.Accepted, path, None, idempotency_key)

    def cancel_many(
        self,
        *,
        limit: int | None = None,
        dry_run: bool = False,
        on_page: OnPage = None,
        **wanted: Unpack[ExecutionFilter],
    ) -> wire.BulkResult:
        """Cancel the executions that match and have not ended, at most `limit`, newest first.

        `wanted` is as in `list`. Sends as many requests as needed and returns one result; `on_page`
        is called with the result of each. With `dry_run` nothing is changed, and `remaining` is
        the number of matches, counted up to 10,000.
        """
        path, body = f"{_PATH}/bulk/cancel", filter_fields(wanted)
        if dry_run:
            return self._count(path, body)
        return _change(
            body, limit, on_page, lambda page, _: self._transport.post(wire.BulkResult, path, page)
        )

    def retry_many(
        self,
        *,
        limit: int | None = None,
        dry_run: bool = False,
        on_page: OnPage = None,
        idempotency_key: str | None = None,
        **wanted: Unpack[ExecutionFilter],
    ) -> wire.BulkResult:
        """Retry the executions that match, at most `limit`, newest first.

        `wanted` is as in `list`; `status` is `failed` by default and names ended ones only.
        `skipped` lists executions that can't be retried. The same call with the same key, of at
        most 240 characters, creates nothing twice. `on_page` and `dry_run` are as in `cancel_many`;
        the result has the batch of the last request.
        """
        path, body = f"{_PATH}/bulk/retry", filter_fields(wanted)
        if dry_run:
            return self._count(path, body)
        key = idempotency_key or str(uuid4())
        return _change(
            body,
            limit,
            on_page,
            lambda page, number: self._transport.create_work(
                wire.BulkResult, path, page, f"{key}.{number}"
            ),
        )

    def _count(self, path: str, body: dict[str, Any]) -> wire.BulkResult:
        response = self._transport.send(
            "POST", path, body=body | {"limit": 1}, params={"dry_run": True}
        )
        return wire.BulkResult.model_validate_json(response.content)

    def events(self, execution_id: str | UUID, *, after: int = 0) -> Iterator[wire.Event]:
        """Yield the events so far that are numbered above `after`."""
        while True:
            found = self._transport.get(
                wire.Events,
                f"{_PATH}/{segment(execution_id)}/events",
                {"after": after, "limit": 500},
            )
            yield from found.items
            if found.next_after is None:
                return
            after = found.next_after

    def stream(
        self,
        execution_id: str | UUID,
        *,
        after: int = 0,
        timeout: float | None = None,
        on_away: Callable[[bool], None] = lambda _: None,
    ) -> Iterator[wire.Event | Delta]:
        """Yield events as they come, and live output between them, until the execution has ended.

        A broken connection is taken up again behind the last event; `on_away` is called with True
        when the API stops answering and with False when it answers again. Raises WaitTimeoutError
        after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        stream = Stream(
            self._transport.http,
            f"{_PATH}/{segment(execution_id)}/stream",
            after=after,
            on_away=on_away,
        )
        yield from stream.follow(deadline)
        if not stream.ended:
            raise WaitTimeoutError(execution_id, timeout or 0.0)

    def wait(self, execution_id: str | UUID, *, timeout: float | None = None) -> wire.Execution:
        """Return the execution when it has ended; raises WaitTimeoutError after `timeout` seconds.

        What ended in failure is returned as well: look at `status`.
        """
        for _ in self.stream(execution_id, timeout=timeout):
            pass
        return self.get(execution_id)

    def files(self, execution_id: str | UUID) -> Files:
        """Return the files of its own directory: `.list()`, `.download(path, target)`."""
        return Files(self._transport, f"{_PATH}/{segment(execution_id)}")

    def report(self, execution_id: str | UUID, *, format: str = "markdown") -> str:  # noqa: A002
        """Return the report of one that has ended, as `markdown` or `html`."""
        path = f"{_PATH}/{segment(execution_id)}/report"
        return self._transport.send("GET", path, params={"format": format}).text

    def reports(self, execution_id: str | UUID) -> Sequence[wire.Report]:
        """Return which of its reports were made so far, with their sizes."""
        return self._transport.get(wire.Reports, f"{_PATH}/{segment(execution_id)}/reports").items


def _change(
    body: dict[str, Any],
    limit: int | None,
    on_page: OnPage,
    send: Callable[[dict[str, Any], int], wire.BulkResult],
) -> wire.BulkResult:
    """Send page after page, until `limit` executions were changed or skipped; join the results."""
    pages: list[wire.BulkResult] = []
    seen = 0
    while True:
        body["limit"] = _PAGE if limit is None else min(_PAGE, limit - seen)
        page = send(body, len(pages))
        pages.append(page)
        if on_page is not None:
            on_page(page)
        seen += page.affected + len(page.skipped)
        if page.next_cursor is None or (limit is not None and seen >= limit):
            break
        body["cursor"] = page.next_cursor
    return page.model_copy(
        update={
            "affected": sum(each.affected for each in pages),
            "execution_ids": [key for each in pages for key in each.execution_ids],
            "skipped": [skipped for each in pages for skipped in each.skipped],
            "batch_id": next((each.batch_id for each in pages[::-1] if each.batch_id), None),
        }
    )
