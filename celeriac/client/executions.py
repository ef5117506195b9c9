"""Executions: submit, wait, list, cancel, retry; events and reports. Plain Celery tasks."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypedDict, Unpack
from uuid import UUID, uuid4

from celeriac import wire
from celeriac.client.errors import WaitTimeoutError
from celeriac.client.export import exported
from celeriac.client.sessions import Files
from celeriac.client.stream import Delta, LogStream, Stream
from celeriac.client.transport import Resource, given, path
from celeriac.domain.budgets import Budget


class ExecutionOptions(TypedDict, total=False):
    """Options of a run; each may be left out."""

    priority: str | None
    queue: str | None
    session_id: str | UUID | None
    """An earlier session to continue."""
    fork_session: bool
    """Continue a copy of it."""
    budget: Budget | Mapping[str, Any] | None
    """Instead of the task's: `max_cost`, `max_tokens`, `on_budget`."""
    repository: Mapping[str, str] | None
    """`git`, `ref` or `path` instead of the task's, as far as the task leaves them open."""
    record: bool
    """Save the model traffic as a cassette."""
    cassette_id: str | UUID | None
    """Replay model requests from this cassette."""
    callback_url: str | None
    """URL to which its end is sent, signed."""
    expires_in: float | None
    """Cancel it, with `expired`, if it has not begun after so many seconds."""
    expires_at: datetime | None
    """Cancel it if it has not begun by this time, which has a zone; instead of `expires_in`."""
    labels: Mapping[str, str] | None
    """To find it by."""


class Conditions(TypedDict, total=False):
    """What executions must have; all given values must match."""

    ids: Sequence[str | UUID] | None
    """From 1 to 100."""
    status: str | Sequence[str] | None
    task: str | UUID | None
    agent: str | UUID | None
    """Any of its versions."""
    batch_id: str | UUID | None
    origin_id: str | UUID | None
    """Retries of this execution."""
    parent_id: str | UUID | None
    """Started by this execution."""
    session_id: str | UUID | None
    trigger_type: str | None
    waiting_for: str | None
    """`approval`, `budget` or `provider_limit`."""
    error_code: str | None
    """The code of the last error, such as `agent_failed`."""
    flag: str | None
    """`no_op`, `tools_denied`, `truncated` or `silent`."""
    failure_group: str | UUID | None
    """Failed, of this group of failures."""
    label: Sequence[str] | None
    """`KEY:VALUE`; all of them."""
    without_label: Sequence[str] | None
    """`KEY:VALUE`; none of them."""
    created_after: datetime | None
    """At or after this time, which has a zone."""
    created_before: datetime | None


class ExecutionFilter(Conditions, total=False):
    """Selects the executions that match all given values."""

    view: str | UUID | None
    """A saved view, whose filter must match, too."""


class LiveFilter(ExecutionFilter, total=False):
    """Selects executions that have not ended."""

    queue: str | None
    """In this queue."""


def filter_fields(wanted: ExecutionFilter) -> dict[str, Any]:
    """Return the fields or parameters of a request for `wanted`.

    Raises ValueError for empty `ids`, which must not select everything.
    """
    status, ids = wanted.get("status"), wanted.get("ids")
    if ids is not None and not ids:
        raise ValueError("ids is empty; name at least one, or omit it for all.")
    others = {name: value for name, value in wanted.items() if name not in {"status", "ids"}}
    return given(
        id=None if ids is None else [str(each) for each in ids],
        status=[status] if isinstance(status, str) else status,
        **others,
    )


def options_body(options: ExecutionOptions) -> dict[str, Any]:
    """Return the fields of a request for `options`, without those that are not set."""
    fields = {name: value for name, value in options.items() if value is not False}
    if isinstance(budget := options.get("budget"), Budget):
        fields["budget"] = budget.model_dump(mode="json", exclude_none=True)
    return given(**fields)


_EXECUTIONS = "task-executions"
_PAGE = 500
"""The most executions that one request changes."""
OnPage = Callable[[wire.BulkResult], object] | None
_OK = 200
_LONGEST_ANSWER_SECONDS = 86_400.0
"""The longest hard limit of a task."""


class Executions(Resource):
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
        idempotency_key: str | None = None,
    ) -> wire.AcceptedBatch:
        """Run a task once for each item of variables, all or none."""
        body = given(
            items=[dict(item) for item in items],
            priority=priority,
            queue=queue,
            delay_seconds=delay_seconds,
            expires_in=expires_in,
            expires_at=expires_at,
            callback_url=callback_url,
            labels=labels,
        )
        return self._transport.create_work(
            wire.AcceptedBatch, path("tasks", task, "execute-batch"), body, idempotency_key
        )

    def get(self, execution_id: str | UUID) -> wire.Execution:
        """Return an execution."""
        return self._transport.get(wire.Execution, path(_EXECUTIONS, execution_id))

    def list(
        self, *, include: Sequence[str] | None = None, **wanted: Unpack[ExecutionFilter]
    ) -> Iterator[wire.ExecutionSummary]:
        """Yield executions, the newest first.

        `wanted`: `ids`, `status`, `task`, `agent`, `batch_id`, `origin_id`, `parent_id`,
        `session_id`, `trigger_type`, `waiting_for`, `error_code`, `failure_group`, `label`,
        `without_label`, `created_after`, `created_before`. `include` names fields that may be large
        and are None otherwise: `variables`, `result`, `error_details`. `get` returns an execution
        with all fields.
        """
        params = filter_fields(wanted) | given(include=None if include is None else list(include))
        return self._transport.pages(wire.ExecutionSummary, path(_EXECUTIONS), params)

    def search(
        self, text: str, *, windows: int | None = 20, **wanted: Unpack[ExecutionFilter]
    ) -> Iterator[wire.ExecutionSummary]:
        """Yield executions that have a text, the newest first; `wanted` as in `list`.

        Each request looks a bounded number of executions further back. After so many of them,
        `windows`, the search ends, and may have left out older ones: `search_windows` returns how
        far back it looked. None searches to the oldest.
        """
        for window in self.search_windows(text, windows=windows, **wanted):
            yield from window.items

    def search_windows(
        self,
        text: str,
        *,
        windows: int | None = None,
        cursor: str | None = None,
        limit: int | None = None,
        **wanted: Unpack[ExecutionFilter],
    ) -> Iterator[wire.SearchWindow]:
        """Yield what each request of a search has found, `searched_back_to` and `next_cursor`."""
        params = filter_fields(wanted) | given(text=text, limit=limit)
        for _ in itertools.count() if windows is None else range(windows):
            asked = {**params, "cursor": cursor}
            window = self._transport.get(wire.SearchWindow, path(_EXECUTIONS, "search"), asked)
            yield window
            cursor = window.next_cursor
            if cursor is None:
                return

    def export(
        self,
        format: str = "csv",  # noqa: A002 - the parameter's public name
        *,
        include: Sequence[str] | None = None,
        limit: int | None = None,
        **wanted: Unpack[ExecutionFilter],
    ) -> Iterator[bytes]:
        """Yield the executions that match as pieces of one `csv` or `ndjson`, the newest first.

        Pieces end anywhere. `wanted` and `include` are as in `list`; `limit` is the most, all if
        None. Raises ClientError, with the code `export_incomplete` if it breaks off.
        """
        included = None if include is None else [*include]
        params = filter_fields(wanted) | given(format=format, include=included)
        return exported(self._transport, path(_EXECUTIONS, "export"), params, limit)

    def cancel(self, execution_id: str | UUID) -> wire.Execution:
        """Request the end of an execution; a running one stops within seconds."""
        return self._transport.post(wire.Execution, path(_EXECUTIONS, execution_id, "cancel"), None)

    def prioritise(self, execution_id: str | UUID, priority: str) -> wire.Execution:
        """Give an execution that has not ended another priority, and return it.

        A pending one takes its new place in its queue at once; a message that is sent keeps its
        place at the broker.
        """
        body = {"priority": priority}
        return self._transport.post(
            wire.Execution, path(_EXECUTIONS, execution_id, "prioritise"), body
        )

    def label(self, execution_id: str | UUID, labels: Mapping[str, str | None]) -> wire.Execution:
        """Set labels of an execution, and remove those with None; return the execution."""
        body = {"labels": dict(labels)}
        return self._transport.post(wire.Execution, path(_EXECUTIONS, execution_id, "label"), body)

    def move(self, execution_id: str | UUID, to_queue: str) -> wire.Execution:
        """Move an execution that has not ended to another queue, and return it.

        A running attempt is not affected; its retries go to the new queue.
        """
        body = {"to_queue": to_queue}
        return self._transport.post(wire.Execution, path(_EXECUTIONS, execution_id, "move"), body)

    def retry(
        self, execution_id: str | UUID, *, idempotency_key: str | None = None
    ) -> wire.Accepted:
        """Run an execution that has ended again, as a new execution."""
        return self._transport.create_work(
            wire.Accepted, path(_EXECUTIONS, execution_id, "retry"), None, idempotency_key
        )

    def cancel_many(
        self,
        *,
        limit: int | None = None,
        dry_run: bool = False,
        on_page: OnPage = None,
        **wanted: Unpack[LiveFilter],
    ) -> wire.BulkResult:
        """Cancel the executions that match and have not ended, at most `limit`, newest first.

        `wanted` is as in `list`, and `queue`. Sends as many requests as needed and returns one
        result; `on_page` is called with the result of each. With `dry_run` nothing is changed, and
        `remaining` is the number of matches, counted up to 10,000.
        """
        return self._change_live("cancel", filter_fields(wanted), limit, on_page, dry_run=dry_run)

    def prioritise_many(
        self,
        priority: str,
        *,
        limit: int | None = None,
        dry_run: bool = False,
        on_page: OnPage = None,
        **wanted: Unpack[LiveFilter],
    ) -> wire.BulkResult:
        """Give the executions that match and have not ended another priority.

        The other parameters are as in `cancel_many`. Executions that have it are left out.
        """
        body = filter_fields(wanted) | {"priority": priority}
        return self._change_live("prioritise", body, limit, on_page, dry_run=dry_run)

    def move_many(
        self,
        to_queue: str,
        *,
        limit: int | None = None,
        dry_run: bool = False,
        on_page: OnPage = None,
        **wanted: Unpack[LiveFilter],
    ) -> wire.BulkResult:
        """Move the executions that match and have not ended to another queue.

        The other parameters are as in `cancel_many`. Executions that are in it are left out.
        """
        body = filter_fields(wanted) | {"to_queue": to_queue}
        return self._change_live("move", body, limit, on_page, dry_run=dry_run)

    def _change_live(
        self,
        action: str,
        body: dict[str, Any],
        limit: int | None,
        on_page: OnPage,
        *,
        dry_run: bool,
    ) -> wire.BulkResult:
        if dry_run:
            return self._count(action, body)
        return _change(
            body, limit, on_page, lambda page, _: self._transport.post(
                wire.BulkResult, path(_EXECUTIONS, "bulk", action), page
            )
        )  # fmt: skip

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
        body = filter_fields(wanted)
        if dry_run:
            return self._count("retry", body)
        key = idempotency_key or str(uuid4())
        return _change(
            body, limit, on_page, lambda page, number: self._transport.create_work(
                wire.BulkResult, path(_EXECUTIONS, "bulk", "retry"), page, f"{key}.{number}"
            )
        )  # fmt: skip

    def _count(self, action: str, body: dict[str, Any]) -> wire.BulkResult:
        response = self._transport.send(
            "POST",
            path(_EXECUTIONS, "bulk", action),
            body=body | {"limit": 1},
            params={"dry_run": True},
        )
        return wire.BulkResult.model_validate_json(response.content)

    def events(self, execution_id: str | UUID, *, after: int = 0) -> Iterator[wire.Event]:
        """Yield the existing events with numbers above `after`."""
        while True:
            found = self._transport.get(
                wire.Events,
                path(_EXECUTIONS, execution_id, "events"),
                {"after": after, "limit": 500},
            )
            yield from found.items
            if found.next_after is None:
                return
            after = found.next_after

    def why(self, execution_id: str | UUID) -> wire.WaitingReasons:
        """Return what an execution waits for, in the order in which that must come to pass."""
        return self._transport.get(wire.WaitingReasons, path(_EXECUTIONS, execution_id, "why"))

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
            path(_EXECUTIONS, execution_id, "stream"),
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
        return self._transport.get(wire.LogPage, path(_EXECUTIONS, execution_id, "logs"), params)

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
            path(_EXECUTIONS, execution_id, "logs", "stream"),
            after=after,
            params={"level": level},
            on_away=on_away,
        )
        yield from stream.follow(deadline)
        if not stream.ended:
            raise WaitTimeoutError("execution", execution_id, timeout or 0.0)

    def files(self, execution_id: str | UUID) -> Files:
        """Return the files of its own directory: `.list()`, `.download(path, target)`."""
        return Files(self._transport, path(_EXECUTIONS, execution_id))

    def report(self, execution_id: str | UUID, *, format: str = "markdown") -> str:  # noqa: A002
        """Return the report of an execution that has ended, as `markdown` or `html`."""
        response = self._transport.send(
            "GET", path(_EXECUTIONS, execution_id, "report"), params={"format": format}
        )
        return response.text

    def reports(self, execution_id: str | UUID) -> Sequence[wire.Report]:
        """Return the existing reports of an execution, with their sizes."""
        return self._transport.get(wire.Reports, path(_EXECUTIONS, execution_id, "reports")).items


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


class CeleryTasks(Resource):
    """`client.celery_tasks`: plain Celery tasks, and those of executions."""

    def send(
        self,
        name: str,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        idempotency_key: str | None = None,
    ) -> wire.CeleryTask:
        """Send a plain Celery task whose name is on the server's list."""
        body = given(name=name, args=[*args], kwargs=dict(kwargs or {}), queue=queue)
        return self._transport.create_work(
            wire.CeleryTask, path("celery-tasks"), body, idempotency_key
        )

    def get(self, task_id: str | UUID) -> wire.CeleryTask:
        """Return the state of a Celery task."""
        return self._transport.get(wire.CeleryTask, path("celery-tasks", task_id))
