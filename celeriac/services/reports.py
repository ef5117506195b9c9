"""Reports: made on request or after an execution has ended, and stored."""

import contextlib
import hashlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from celeriac.db import approvals, budgets, reports
from celeriac.db.budgets import ChargeScope
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
from celeriac.domain.executions.model import Execution
from celeriac.domain.reports import ReportFormat
from celeriac.logs import Step, bound
from celeriac.services.catalog.plans import SpecCache

logger = structlog.get_logger(__name__)

_PAGE = 200
_EVENTS = 50_000
_QUESTIONS = 1_000
"""So many at most are in a report; the lists themselves have all."""


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
    """Makes and keeps reports. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        """Read from and keep in `database`."""
        self._database = database
        self._plans = SpecCache(database)

    def __call__(self, actor: Actor, execution_id: UUID, wanted: ReportFormat) -> Report:
        """Return the report of a finished execution; the first demand makes it where none is.

        It has the same bytes each time. Raises NotFoundError, and ConflictError while the
        execution isn't finished.
        """
        execution = self._finished(execution_id, owner=actor.scope)
        return self._kept(execution_id, wanted) or self._make(execution, wanted)

    def prepare(self, execution_id: UUID) -> None:
        """Make the report of a finished execution, as a page too, before anybody asks for it."""
        execution = self._finished(execution_id, owner=None)
        markdown = self._markdown(execution)
        self._keep(Report(execution_id, ReportFormat.MARKDOWN, markdown.encode()))
        self._keep(Report(execution_id, ReportFormat.HTML, _page(execution_id, markdown)))

    def made(self, actor: Actor, execution_id: UUID) -> Sequence[StoredReport]:
        """Return which reports of an execution have been made so far. Raises NotFoundError."""
        with self._database.statement() as connection:
            if not queries.statuses(connection, [execution_id], owner=actor.scope):
                raise NotFoundError("execution", execution_id)
            return reports.find(connection, execution_id)

    def _finished(self, execution_id: UUID, *, owner: UUID | None) -> Execution:
        with self._database.statement() as connection:
            execution = queries.get(connection, execution_id, owner=owner)
        if execution is None:
            raise NotFoundError("execution", execution_id)
        if not execution.status.terminal:
            raise ConflictError(
                f"The execution is {execution.status}; its report is there when it has ended.",
                status=execution.status.value,
            )
        return execution

    def _kept(self, execution_id: UUID, wanted: ReportFormat) -> Report | None:
        with self._database.statement() as connection:
            content = reports.content(connection, execution_id, wanted)
        return None if content is None else Report(execution_id, wanted, content)

    def _make(self, execution: Execution, wanted: ReportFormat) -> Report:
        if wanted is ReportFormat.MARKDOWN:
            content = self._markdown(execution).encode()
        else:
            source = self._kept(execution.id, ReportFormat.MARKDOWN)
            markdown = self._markdown(execution) if source is None else source.content.decode()
            content = _page(execution.id, markdown)
        made = Report(execution.id, wanted, content)
        if self._keep(made):
            return made
        # somebody else was faster; what is kept is what counts
        return self._kept(execution.id, wanted) or made

    def _keep(self, made: Report) -> bool:
        with self._database.statement() as connection:
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
        with self._database.statement() as connection:
            questions = approvals.find(connection, asked, before=None, limit=_QUESTIONS).items
        return report.markdown(
            execution, self._log(execution.id), questions[::-1], self._standings(execution)
        )

    def _standings(self, execution: Execution) -> list[BudgetState]:
        """Return how the budgets stand that held an execution, where it used anything."""
        if not execution.input_tokens and not execution.output_tokens:
            return []
        own = execution.options.budget
        if own is None:
            # a report is made all the same of what can't be read any more
            with contextlib.suppress(NotFoundError, SpecificationUnreadableError):
                plan = self._plans.of_versions(
                    execution.task_version_id, execution.agent_version_id
                )
                own = plan.task.budget
        payer = ChargeScope(execution.id, execution.task_id, execution.owner_id, own)
        with self._database.statement() as connection:
            return budgets.standings(connection, payer)

    def _log(self, execution_id: UUID) -> Iterator[Event]:
        """Yield the events a page at a time: together they may be larger than memory."""
        seq = 0
        while seq < _EVENTS:
            with self._database.statement() as connection:
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
    """Makes reports on a thread of its own, which starts with the first of them.

    None of them is needed now: what was not made, because too many waited or the process ended, is
    made when somebody asks for it.
    """

    def __init__(self, prepare: Callable[[UUID], None]) -> None:
        """Make reports with `prepare`."""
        self._prepare = prepare
        self._waiting: queue.Queue[tuple[UUID, Mapping[str, str]] | None] = queue.Queue(
            _MOST_WAITING
        )
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def enqueue(self, execution_id: UUID, correlation: Mapping[str, str]) -> None:
        """Have the report of an execution that has ended made; never waits."""
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
            # the system has no thread left; the next report tries again
            logger.warning("report.left_for_later", error=str(error))
        else:
            self._thread = thread

    def close(self) -> None:
        """Finish what is begun and make no more."""
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
                    # one that can't be written must not cost the others
                    logger.exception("report.not_made")
