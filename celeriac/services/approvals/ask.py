"""Asks people on behalf of attempts, and expires open questions."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from uuid import UUID

import structlog

from celeriac.db import approvals
from celeriac.db.approvals import Closed, Expired
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import lifecycle
from celeriac.db.workflows import questions
from celeriac.domain.approvals import Answer, ApprovalStatus, OnExpiry, Question, QuestionKind
from celeriac.domain.errors import ApprovalExpiredError, DatabaseUnavailableError, LeaseLostError
from celeriac.domain.executions.model import Lease
from celeriac.kit.backoff import grown
from celeriac.logs import Step
from celeriac.services.ports import LiveEvents
from celeriac.services.retrying import retry_statement

logger = structlog.get_logger(__name__)

_POLL_SECONDS = 0.5
"""How often a process polls for the answers that its attempts wait for."""

_LONGEST_PAUSE_SECONDS = 5.0
"""The longest pause between polls that fail."""


PauseClock = Callable[[Lease], Callable[[], None]]
"""Pauses the time limits of an attempt, and returns what resumes them."""


class Questions:
    """Asks people on behalf of attempts. Safe to share between threads and loops."""

    def __init__(
        self,
        database: Database,
        live: LiveEvents,
        *,
        pause_clock: PauseClock = lambda _: lambda: None,
        expect_rows: Callable[[Lease], None] = lambda _: None,
    ) -> None:
        """Store in `database`, publish changes to `live`.

        A thread polls for answers while any is waited for. Meanwhile `pause_clock` pauses the
        attempt's time limits. `expect_rows` is called before a question is stored; it raises
        LeaseLostError if the attempt has ended.
        """
        self._database = database
        self._live = live
        self._pause_clock = pause_clock
        self._expect_rows = expect_rows
        self._poller = _AnswerPoller(database)

    async def answers(
        self, execution_id: UUID, *, kind: QuestionKind | None = None
    ) -> Mapping[str, Answer]:
        """Return the answers to an execution's questions, of one kind or of all, by key."""
        return await retry_statement(
            self._database,
            lambda connection: approvals.answers(connection, execution_id, kind=kind),
        )

    async def ask(self, lease: Lease, question: Question) -> Answer:
        """Store a question and wait until it is answered; see `RunContext.ask`.

        If the wait is cancelled the question stays open: another attempt that asks with its key
        waits for the same answer. Raises LeaseLostError, ApprovalExpiredError.
        """
        approval_id = await self._store(lease, question)
        resume = self._pause_clock(lease)
        try:
            closing = self._poller.add(approval_id)
            # called in the polling thread: the agent may block its own event loop
            closing.add_done_callback(lambda _: resume())
            try:
                return _answer(await asyncio.wrap_future(closing))
            finally:
                self._poller.drop(approval_id, closing)
        finally:
            resume()

    async def _store(self, lease: Lease, question: Question) -> UUID:
        self._expect_rows(lease)
        # repeatable: a question is stored once under its key
        asked = await retry_statement(
            self._database, lambda connection: approvals.ask(connection, lease, question)
        )
        if asked is None:
            raise LeaseLostError("This worker no longer owns the attempt.")
        if asked.fresh:
            logger.info(Step.APPROVAL_ASKED, kind=question.kind, key=question.key)
            self._live.changed([lease.execution_id])
        return asked.id


def _answer(closed: Closed) -> Answer:
    if closed.status is ApprovalStatus.WITHDRAWN:
        raise LeaseLostError("The execution has ended; its questions are withdrawn.")
    if closed.status is ApprovalStatus.EXPIRED and closed.on_expiry is OnExpiry.FAIL:
        raise ApprovalExpiredError(f"Nobody answered in time: {closed.title}")
    return closed.answer


class _AnswerPoller:
    """Polls for the answers of all waiting attempts, in one thread and with one query."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._waiting: dict[UUID, list[Future[Closed]]] = defaultdict(list)
        self._thread: threading.Thread | None = None

    def add(self, approval_id: UUID) -> Future[Closed]:
        """Return a future of the closed question. Raises RuntimeError if no thread can start."""
        closing = Future[Closed]()
        with self._lock:
            self._waiting[approval_id].append(closing)
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="answers", daemon=True)
                try:
                    thread.start()
                except BaseException:
                    self._forget(approval_id, closing)
                    raise
                self._thread = thread
        return closing

    def drop(self, approval_id: UUID, closing: Future[Closed]) -> None:
        """Stop waiting."""
        with self._lock:
            self._forget(approval_id, closing)

    def _forget(self, approval_id: UUID, closing: Future[Closed]) -> None:
        waiting = self._waiting.get(approval_id, [])
        if closing in waiting:
            waiting.remove(closing)
        if not waiting:
            self._waiting.pop(approval_id, None)

    def _run(self) -> None:
        pause, failures = threading.Event(), 0
        while ids := self._ids():
            try:
                with self._database.autocommit() as connection:
                    found = approvals.closed(connection, ids)
                for approval_id, closed in found.items():
                    self._end(approval_id, closed)
                failures = 0
            except DatabaseUnavailableError as error:
                failures += 1
                logger.warning("questions.database_unavailable", error=error.message)
            except Exception:
                # Whatever it is, the waiting attempts depend on this thread.
                failures += 1
                logger.exception("questions.look_failed", failures=failures)
            pause.wait(grown(_POLL_SECONDS, failures, _LONGEST_PAUSE_SECONDS))

    def _end(self, approval_id: UUID, closed: Closed) -> None:
        with self._lock:
            waiting = self._waiting.pop(approval_id, [])
        for closing in waiting:
            if closing.set_running_or_notify_cancel():
                closing.set_result(closed)

    def _ids(self) -> list[UUID]:
        """Return what is waited for; if that is nothing, the thread ends."""
        with self._lock:
            if not self._waiting:
                self._thread = None
            return list(self._waiting)


class Expire:
    """Expires questions; any number of keepers may do it at once."""

    def __init__(
        self,
        database: Database,
        live: LiveEvents,
        ended: Callable[[Sequence[UUID]], None] | None = None,
        advance: Callable[[Sequence[UUID]], None] | None = None,
    ) -> None:
        """Expire questions of `database`.

        `ended` is called for executions that this has ended, `advance` for the runs of steps.
        """
        self._database = database
        self._live = live
        self._ended = ended
        self._advance = advance

    def expire_overdue(self, limit: int) -> int:
        """Give overdue questions their default answers; return how many.

        Executions without another open question resume, or fail if the question says so. A running
        attempt polls for its answer. Steps of runs settle.
        """
        return self._of_executions(limit) + self._of_runs(limit)

    def _of_runs(self, limit: int) -> int:
        with self._database.transaction() as connection:
            expired = questions.expire_due(connection, limit=limit)
        for each in expired:
            logger.info(
                Step.APPROVAL_ANSWERED,
                run_id=each.run_id,
                step=each.step,
                approval_id=each.id,
                approved=False,
                by="expiry",
            )
        found = list(dict.fromkeys(each.run_id for each in expired))
        self._live.changed(found)
        if self._advance is not None:
            self._advance(found)
        return len(expired)

    def _of_executions(self, limit: int) -> int:
        with self._database.transaction() as connection:
            expired = approvals.expire_due(connection, limit=limit)
            failing = {
                each.execution_id: each for each in expired if each.on_expiry is OnExpiry.FAIL
            }
            failed = [each for each in failing.values() if _fail(connection, each)]
            others = {each.execution_id for each in expired} - failing.keys()
            resumed = lifecycle.resume_answered(connection, sorted(others)) if others else []
        for each in expired:
            logger.info(
                Step.APPROVAL_ANSWERED,
                execution_id=each.execution_id,
                approval_id=each.id,
                approved=each.on_expiry is OnExpiry.APPROVE,
                by="expiry",
            )
        for each in failed:
            logger.error(
                Step.EXECUTION_FAILED,
                execution_id=each.execution_id,
                error_code=ApprovalExpiredError.code,
                error=_message(each),
            )
        for execution_id in resumed:
            logger.info(Step.EXECUTION_RESUMED, execution_id=execution_id)
        self._live.changed(list(dict.fromkeys(each.execution_id for each in expired)))
        if self._ended is not None:
            self._ended([each.execution_id for each in failed])
        return len(expired)


def _fail(connection: Connection, expired: Expired) -> bool:
    return lifecycle.expire(
        connection,
        expired.execution_id,
        code=ApprovalExpiredError.code,
        message=_message(expired),
        approval_id=expired.id,
    )


def _message(expired: Expired) -> str:
    return f"Nobody answered in time: {expired.title}"
