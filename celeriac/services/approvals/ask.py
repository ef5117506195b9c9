"""Asks people in place of an attempt, and expires open questions."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from uuid import UUID

import structlog
from sqlalchemy import Connection

from celeriac.db import approvals, audit
from celeriac.db.approvals import Asked, Closed, Expired
from celeriac.db.engine import Database
from celeriac.db.executions import lifecycle
from celeriac.domain.approvals import Answer, ApprovalStatus, OnExpiry, Question, QuestionKind
from celeriac.domain.errors import ApprovalExpiredError, DatabaseUnavailableError, LeaseLostError
from celeriac.domain.executions.model import Lease
from celeriac.kit.backoff import grown
from celeriac.logs import Step
from celeriac.services.ports import LiveEvents
from celeriac.services.retrying import retry_while_unavailable_in

logger = structlog.get_logger(__name__)

_PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 0.5
"""How often a process looks for the answers that its attempts wait for in their places."""

_LONGEST_PAUSE_SECONDS = 5.0
"""How long it pauses at most between looks that fail."""


StandStill = Callable[[Lease], Callable[[], None]]
"""Stops the time of an attempt, and returns what lets it go on."""


def untimed(_: Lease) -> Callable[[], None]:
    """Stop no time: nothing is known of attempts and their limits."""
    return lambda: None


class Questions:
    """Asks in the name of attempts. Safe to share between threads and loops."""

    def __init__(
        self, database: Database, live: LiveEvents, *, stand_still: StandStill = untimed
    ) -> None:
        """Store in `database`, tell `live`; a thread looks for answers while any is waited for.

        The time of an attempt stands still (`stand_still`) while it waits for an answer.
        """
        self._database = database
        self._live = live
        self._stand_still = stand_still
        self._watch = _AnswerPoller(database)

    async def answers(
        self, execution_id: UUID, *, kind: QuestionKind | None = None
    ) -> Mapping[str, Answer]:
        """Return the answers to an execution's questions, of one kind or of all, by key."""

        def read() -> Mapping[str, Answer]:
            with self._database.statement() as connection:
                return approvals.answers(connection, execution_id, kind=kind)

        return await retry_while_unavailable_in(
            self._database.threads, read, seconds=_PATIENCE_SECONDS
        )

    async def ask(self, lease: Lease, question: Question) -> Answer:
        """Store a question and wait until it is answered; see `RunContext.ask`.

        Stopping the waiting leaves the question open: another attempt that asks under its key
        waits for the same answer. Raises LeaseLostError, ApprovalExpiredError.
        """
        approval_id = await self._store(lease, question)
        go_on = self._stand_still(lease)
        try:
            closing = self._watch.add(approval_id)
            # in the thread that finds the answer: the agent may hold up its own event loop
            closing.add_done_callback(lambda _: go_on())
            try:
                return _answer(await asyncio.wrap_future(closing))
            finally:
                self._watch.drop(approval_id, closing)
        finally:
            go_on()

    async def _store(self, lease: Lease, question: Question) -> UUID:
        def ask() -> Asked | None:  # under its key: a try whose answer got lost has asked it
            with self._database.statement() as connection:
                return approvals.ask(connection, lease, question)

        asked = await retry_while_unavailable_in(
            self._database.threads, ask, seconds=_PATIENCE_SECONDS
        )
        if asked is None:
            raise LeaseLostError("This worker no longer owns the attempt.")
        if asked.fresh:
            logger.info(Step.APPROVAL_ASKED, kind=question.kind, key=question.key)
            self._live.changed([lease.execution_id])
        return asked.id


def _answer(closed: Closed) -> Answer:
    if closed.status is ApprovalStatus.WITHDRAWN:
        raise LeaseLostError("The execution has ended; nobody answers its questions any more.")
    if closed.status is ApprovalStatus.EXPIRED and closed.on_expiry is OnExpiry.FAIL:
        raise ApprovalExpiredError(f"Nobody answered in time: {closed.title}")
    return closed.answer


class _AnswerPoller:
    """Waits for all open questions of a process in one thread, with one query for all of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._waiting: dict[UUID, list[Future[Closed]]] = defaultdict(list)
        self._thread: threading.Thread | None = None

    def add(self, approval_id: UUID) -> Future[Closed]:
        """Return what will hold the question's end. Raises RuntimeError where no thread starts."""
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
        """Wait no longer."""
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
                for approval_id, closed in self._look(ids).items():
                    self._end(approval_id, closed)
                failures = 0
            except DatabaseUnavailableError as error:
                failures += 1
                logger.warning("questions.database_unavailable", error=error.message)
            except Exception:
                # Whatever it is, the attempts that wait have nobody else who would tell them.
                failures += 1
                logger.exception("questions.look_failed", failures=failures)
            pause.wait(grown(_LOOK_SECONDS, failures, _LONGEST_PAUSE_SECONDS))

    def _end(self, approval_id: UUID, closed: Closed) -> None:
        with self._lock:
            waiting = self._waiting.pop(approval_id, [])
        for closing in waiting:
            if closing.set_running_or_notify_cancel():
                closing.set_result(closed)

    def _ids(self) -> list[UUID]:
        """Return what is waited for; where that is nothing, the thread ends."""
        with self._lock:
            if not self._waiting:
                self._thread = None
            return list(self._waiting)

    def _look(self, ids: list[UUID]) -> Mapping[UUID, Closed]:
        with self._database.statement() as connection:
            return approvals.closed(connection, ids)


class Expire:
    """The keeper's part in approvals; any number of keepers may do it at once."""

    def __init__(self, database: Database, live: LiveEvents) -> None:
        """Work on `database`, tell `live`."""
        self._database = database
        self._live = live

    def expire_overdue(self, limit: int) -> int:
        """Give overdue questions the answers that they name; return how many.

        Executions that wait for nothing else go on, or fail where the question says so. A running
        one learns of its answer by itself.
        """
        with self._database.transaction() as connection:
            expired = approvals.expire_due(connection, limit=limit)
            failing = {each.execution_id: each for each in expired if each.on_expiry is _FAIL}
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
        return len(expired)

    def withdraw_orphaned(self, limit: int) -> int:
        """Withdraw what executions asked that have ended meanwhile; return how many."""
        with self._database.statement() as connection:
            return approvals.withdraw_ended(connection, limit=limit)


_FAIL = OnExpiry.FAIL


def _fail(connection: Connection, expired: Expired) -> bool:
    code, message = ApprovalExpiredError.code, _message(expired)
    failed = lifecycle.expire(connection, expired.execution_id, code=code, message=message)
    if failed:
        audit.failed(
            connection,
            expired.execution_id,
            actor="keeper",
            request_id=None,
            details={"code": code, "message": message, "approval_id": str(expired.id)},
        )
    return failed


def _message(expired: Expired) -> str:
    return f"Nobody answered in time: {expired.title}"
