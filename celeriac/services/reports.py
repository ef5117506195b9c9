"""Reports: rendered after an execution has ended or on request, and stored."""

import contextlib
import hashlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from celeriac.db import approvals, reports
from celeriac.db.budgets import windows
from celeriac.db.budgets.windows import ChargeScope
from celeriac.db.engine import Database
from celeriac.db.executions import events, queries
from celeriac.db.reports import StoredReport
from celeriac.domain import reports as report
from celeriac.domain.accounts import Actor
from celeriac.domain.approvals import ApprovalFilter
from celeriac.domain.budgets import BudgetState
from celeriac.domain.errors import (
    CeleriacError,
    ConflictError,
    NotFoundError,
    SpecificationUnreadableError,
)
from celeriac.domain.executions.events import Event
from celeriac.domain.executions.model import Execution, ExecutionFilter
from celeriac.domain.reports import ReportFormat
from celeriac.logs import Step, bound
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.reading import present

logger = structlog.get_logger(__name__)

_PAGE = 200
_EVENTS = 50_000
_QUESTIONS = 1_000
_CHILDREN = 1_000
"""The limits of events and questions in a report; the API's lists have all."""


@dataclass(frozen=True, slots=True)
class Report:
    """A report ready to be downloaded."""

    execution_id: UUID
    format: ReportFormat
    content: bytes

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self.content)

    @property
    def sha256(self) -> str:
        """The checksum of the content, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()


class ReportStore:
    """Renders and stores reports. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._specs = SpecCache(database)

    def __call__(self, actor: Actor, execution_id: UUID, wanted: ReportFormat) -> Report:
        """Return the report of a finished execution; rendered if it isn't stored yet.

        It has the same bytes each time. Raises NotFoundError, and ConflictError while the execution
        isn't finished.
        """
        execution = self._finished(execution_id, workspace=actor.workspace_id)
        return self._stored(execution_id, wanted) or self._render(execution, wanted)

    def prepare(self, execution_id: UUID) -> None:
        """Render and store the reports of a finished execution in advance."""
        execution = self._finished(execution_id, workspace=None)
        markdown = self._markdown(execution)
        self._store(Report(execution_id, ReportFormat.MARKDOWN, markdown.encode()))
        self._store(Report(execution_id, ReportFormat.HTML, _page(execution_id, markdown)))

    def stored(self, actor: Actor, execution_id: UUID) -> Sequence[StoredReport]:
        """Return the stored reports of an execution. Raises NotFoundError."""
        with self._database.autocommit() as connection:
            if not queries.statuses(connection, [execution_id], workspace=actor.workspace_id):
                raise NotFoundError("execution", execution_id)
            return reports.find(connection, execution_id)

    def _finished(self, execution_id: UUID, *, workspace: UUID | None) -> Execution:
        with self._database.autocommit() as connection:
            execution = queries.get(connection, execution_id, workspace=workspace)
        execution = present(execution, "execution", execution_id)
        if not execution.status.terminal:
            raise ConflictError(
                f"The execution is {execution.status}; its report is available when it has ended.",
                status=execution.status.value,
            )
        return execution

    def _stored(self, execution_id: UUID, wanted: ReportFormat) -> Report | None:
        with self._database.autocommit() as connection:
            content = reports.content(connection, execution_id, wanted)
        return None if content is None else Report(execution_id, wanted, content)

    def _render(self, execution: Execution, wanted: ReportFormat) -> Report:
        if wanted is ReportFormat.MARKDOWN:
            content = self._markdown(execution).encode()
        else:
            source = self._stored(execution.id, ReportFormat.MARKDOWN)
            markdown = self._markdown(execution) if source is None else source.content.decode()
            content = _page(execution.id, markdown)
        made = Report(execution.id, wanted, content)
        if self._store(made):
            return made
        # a concurrent request stored it first; all return the same bytes
        return self._stored(execution.id, wanted) or made

    def _store(self, made: Report) -> bool:
        with self._database.autocommit() as connection:
            new = reports.add(
                connection, made.execution_id, made.format, made.content, sha256=made.sha256
            )
        if new:
            logger.info(
                Step.REPORT_GENERATED,
                execution_id=made.execution_id,
                format=made.format.value,
                size=made.size,
            )
        return new

    def _markdown(self, execution: Execution) -> str:
        asked = ApprovalFilter(execution_id=execution.id)
        with self._database.autocommit() as connection:
            questions = approvals.find(connection, asked, before=None, limit=_QUESTIONS).items
            started = ExecutionFilter(parent_id=execution.id)
            children = queries.find(connection, started, before=None, limit=_CHILDREN).items
        return report.markdown(
            execution,
            self._log(execution.id),
            questions[::-1],
            self._budgets(execution),
            children[::-1],
        )

    def _budgets(self, execution: Execution) -> list[BudgetState]:
        """Return the states of the budgets that all members see, if a model was used."""
        if not execution.input_tokens and not execution.output_tokens:
            return []
        own = execution.options.budget
        if own is None:
            # the report is rendered without a specification that can't be read
            with contextlib.suppress(NotFoundError, SpecificationUnreadableError):
                spec = self._specs.of_versions(
                    execution.task_version_id, execution.agent_version_id
                )
                own = spec.task.budget
        payer = ChargeScope(
            execution.id,
            execution.task_id,
            execution.owner_id,
            execution.workspace_id,
            own,
            execution.options.tree,
        )
        with self._database.autocommit() as connection:
            return [each for each in windows.states(connection, payer) if not each.private]

    def _log(self, execution_id: UUID) -> Iterator[Event]:
        """Yield the events, read page by page: together they may exceed memory."""
        seq = 0
        while seq < _EVENTS:
            with self._database.autocommit() as connection:
                page = events.after(connection, execution_id, seq, _PAGE)
            if not page:
                return
            yield from page
            seq = page[-1].seq


def _page(execution_id: UUID, markdown: str) -> bytes:
    return report.html(markdown, title=f"Execution {execution_id}").encode()


_MOST_WAITING = 1_000
_END_SECONDS = 5.0


class ReportQueue:
    """Renders reports in a thread of its own, which starts with the first one.

    A report that is not rendered here, because the queue is full or the process ends, is rendered
    on request.
    """

    def __init__(self, prepare: Callable[[UUID], None]) -> None:
        self._prepare = prepare
        self._waiting: queue.Queue[tuple[UUID, Mapping[str, str]] | None] = queue.Queue(
            _MOST_WAITING
        )
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def enqueue(self, execution_id: UUID, correlation: Mapping[str, str]) -> None:
        """Enqueue the report of an ended execution; never waits."""
        try:
            self._waiting.put_nowait((execution_id, correlation))
        except queue.Full:
            logger.info("report.left_for_later")
            return
        with self._starting:
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="reports", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            # the system has no thread left; the next report retries
            logger.warning("report.left_for_later", error=str(error))
        else:
            self._thread = thread

    def close(self) -> None:
        """Finish the current report and render no more."""
        if self._thread is None:
            return
        while True:
            try:
                self._waiting.get_nowait()
            except queue.Empty:
                break
        self._waiting.put_nowait(None)
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            execution_id, correlation = item
            with bound(correlation):
                try:
                    self._prepare(execution_id)
                except CeleriacError as error:
                    logger.warning("report.not_made", error=error.message)
                except Exception:
                    # one that fails must not cost the others
                    logger.exception("report.not_made")
