"""The world of the state machine over the core: what there is, what must hold, how it ends."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID

from hypothesis.stateful import RuleBasedStateMachine, invariant
from sqlalchemy import text

from celeriac.db.engine import Database
from celeriac.db.executions import leases
from celeriac.db.executions.leases import PendingWrites
from celeriac.domain.accounts import Role
from celeriac.domain.approvals import OnExpiry, Question, QuestionKind
from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.executions.events import EventType, NewEvent
from celeriac.domain.executions.model import (
    Claim,
    Completed,
    Failed,
    Failure,
    HandedBack,
    Message,
    Outcome,
    Parked,
    QueuedMessage,
    Retry,
    Stopped,
)
from celeriac.domain.executions.pauses import PauseScope, PauseTarget
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.tasks import DEFAULT_QUEUE, TaskSpec
from celeriac.domain.usage import ModelCall
from celeriac.services.catalog.specs import SpecCache
from celeriac.services.executions.finish import Finish
from celeriac.services.executions.pauses import Pauses
from tests.support.core import Core
from tests.support.emptying import empty
from tests.support.forgetful import ForgetfulDatabase
from tests.support.memory import MemoryTaskQueue

EXPIRES_SECONDS = 50.0


def a_question(key: str, on_expiry: OnExpiry = OnExpiry.DENY) -> Question:
    """Return a question that soon runs out."""
    return Question(
        key=key,
        kind=QuestionKind.TOOL,
        title=f"May I {key}?",
        expires_seconds=EXPIRES_SECONDS,
        on_expiry=on_expiry,
    )


def asking(*questions: tuple[str, OnExpiry]) -> Parked:
    """Return an attempt's wait for people."""
    return Parked(
        WaitingFor.APPROVAL,
        "The agent asks.",
        questions=tuple(a_question(key, on_expiry) for key, on_expiry in questions),
    )


SPEC = TaskSpec(max_crashes=2)
ROUNDS_TO_THE_END = 12
FAILURE = Failure("agent_failed", "it failed")
OUTCOMES: dict[str, tuple[Outcome, Status]] = {
    "complete": (Completed({"done": True}), Status.COMPLETED),
    "fail": (Failed(FAILURE), Status.FAILED),
    "retry": (Retry(FAILURE, 0.0), Status.PENDING),
    "retry later": (Retry(FAILURE, 15.0), Status.PENDING),
    "hand back": (HandedBack(), Status.PENDING),
    "stop": (Stopped(), Status.CANCELLED),
    "park": (Parked(WaitingFor.PROVIDER_LIMIT, "429", seconds=15.0), Status.WAITING),
    "ask": (asking(("mail", OnExpiry.DENY)), Status.WAITING),
    "ask briefly": (asking(("mail", OnExpiry.DENY), ("pay", OnExpiry.APPROVE)), Status.WAITING),
    "ask or fail": (asking(("pay", OnExpiry.FAIL)), Status.WAITING),
}
"""Every way an attempt can end, and the status that it should then have."""

_ROWS = text(
    "SELECT id, status, attempt, lease_token, worker_id, status = 'running'"
    " AND NOT EXISTS (SELECT FROM workers w WHERE w.id = worker_id AND w.lost_at IS NULL"
    " AND w.lease_until >= now()) AS expired, crash_count, retry_count,"
    " cancel_requested_at IS NOT NULL AS cancelling, event_seq,"
    " waiting_until IS NOT NULL AS timed, waiting_until < now() AS over,"
    " coalesce(held = 'time' AND available_at <= now(), false) AS delayed_until_now,"
    " celery_task_id::text"
    " FROM executions"
)


class Row(NamedTuple):
    id: UUID
    status: Status
    attempt: int
    token: UUID | None
    worker: UUID | None
    expired: bool
    crash_count: int
    retry_count: int
    cancelling: bool
    event_seq: int
    timed: bool
    over: bool | None
    delayed_until_now: bool
    celery_task_id: str | None


class Asked(NamedTuple):
    """An open question of an execution that has not ended."""

    id: UUID
    execution_id: UUID
    on_expiry: OnExpiry
    overdue: bool


class RecordingQueue(MemoryTaskQueue):
    """Keeps every envelope that was ever sent, so that it can come again."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[QueuedMessage] = []

    def send(self, messages: Sequence[QueuedMessage]) -> None:
        super().send(messages)
        self.sent.extend(messages)


_OPEN = text(
    "SELECT a.id, a.execution_id, a.on_expiry, a.expires_at <= now() FROM approvals a"
    " JOIN executions e ON e.id = a.execution_id"
    " WHERE a.status = 'open' AND e.status NOT IN ('completed', 'failed', 'cancelled')"
    " ORDER BY a.id"
)


def read_rows(database: Database) -> dict[UUID, Row]:
    """Return all executions."""
    with database.autocommit() as connection:
        rows = connection.execute(_ROWS).all()
    return {row[0]: Row(row[0], Status(row[1]), *row[2:]) for row in rows}


_EMPTIED = """
executions execution_inputs execution_results events idempotency_keys audit_logs approvals
model_calls usage_days usage_deltas model_call_times workers pauses execution_ends failure_groups
""".split()


class CoreWorld(RuleBasedStateMachine):
    """The core with its broker and workers, as a machine sees them; it has no rules yet."""

    def __init__(self, database: Database, forgetful: ForgetfulDatabase) -> None:
        super().__init__()
        with database.transaction() as connection:
            empty(connection, _EMPTIED)
        self.queue = RecordingQueue()
        self.core = Core(database, SPEC, self.queue)
        self.forgetful = forgetful
        self.held: list[Claim] = []
        self.ghosts: list[Claim] = []
        """Claims of workers that have vanished, or that have ended already."""
        self.batches: Counter[UUID] = Counter()
        """How many batches were stored under each token."""
        self.plans = SpecCache(database)
        self.pauses = Pauses(database, self.core.dispatch)
        self.administrator = replace(self.core.actor, role=Role.ADMIN, administrator=True)
        self.paused: dict[PauseScope, UUID] = {}
        """The pauses in force; all executions are of one task and queue."""
        self.rows: dict[UUID, Row] = {}
        self.ended: dict[UUID, Row] = {}

    # what must hold

    @invariant()
    def holds_together(self) -> None:
        self.core.assert_consistent()
        before, self.rows = self.rows, read_rows(self.core.database)
        for key, row in before.items():
            assert key in self.rows, f"{key} is lost"
            now = self.rows[key]
            assert now.attempt >= row.attempt
            assert now.event_seq >= row.event_seq
            assert now.crash_count >= row.crash_count
        for key, row in self.rows.items():
            if row.status.terminal:
                assert self.ended.setdefault(key, row) == row, "what had ended has changed"
            if row.status is Status.RUNNING:
                known = any(row.token == claim.lease.token for claim in self.held + self.ghosts)
                assert known, f"{key} runs and nobody knows: an answer that got lost"

    def teardown(self) -> None:
        """All workers are gone and all messages lost: the keeper must bring each to its end."""
        self.queue.away = False
        self.resume_all()
        self.held.clear()
        self.core.lose_messages()
        for _ in range(ROUNDS_TO_THE_END):
            self.core.pass_time(60.0)
            self.core.start_afresh()
            self.core.rescue()
            self.core.resend()
            self.core.resume()
            self.core.expire()
            self.core.pass_time(60.0)
            self.pauses.hold()
            while self.core.dispatch.send_due():
                while (envelope := self.queue.take(DEFAULT_QUEUE)) is not None:
                    claim = self.core.claim(envelope.message)
                    if claim is not None:
                        self.core.end(claim, Completed({"done": True}))
            self.holds_together()
            if all(row.status.terminal for row in self.rows.values()):
                return
        left = [row for row in self.rows.values() if not row.status.terminal]
        assert not left, f"these would never have ended: {left}"

    # helpers for the rules

    def pause(self, scope: PauseScope) -> None:
        target = PauseTarget(
            scope,
            DEFAULT_QUEUE if scope is PauseScope.QUEUE else None,
            self.core.task if scope is PauseScope.TASK else None,
        )
        pause, made = self.pauses.pause(self.administrator, target, "Because.")
        assert made is (scope not in self.paused)
        self.paused[scope] = pause.id

    def resume_all(self) -> None:
        for pause_id in self.paused.values():
            self.pauses.resume(self.administrator, pause_id)
        self.paused.clear()

    def live(self) -> list[Row]:
        return [row for row in self.rows.values() if not row.status.terminal]

    def waiting(self) -> list[Row]:
        return sorted(row for row in self.rows.values() if row.status is Status.WAITING)

    def asked(self) -> list[Asked]:
        """What people are asked."""
        with self.core.database.autocommit() as connection:
            rows = connection.execute(_OPEN).all()
        return [Asked(row[0], row[1], OnExpiry(row[2]), row[3]) for row in rows]

    def some_claims(self, picks: list[int]) -> list[Claim]:
        """Pick claims; of one execution at most one, as a worker process has."""
        claims = self.held + self.ghosts
        picked = [claims[pick % len(claims)] for pick in picks]
        return list({claim.lease.execution_id: claim for claim in picked}.values())

    def depth(self) -> int:
        return 0 if self.queue.away else self.queue.depth(DEFAULT_QUEUE)

    def holds(self, claim: Claim) -> bool:
        row = self.rows[claim.lease.execution_id]
        return row.status is Status.RUNNING and row.token == claim.lease.token

    def claim(self, message: Message, worker: str = "w") -> None:
        row = self.rows[message.execution_id]
        claim = self.core.claim(message, worker)
        offered = (
            row.status is Status.QUEUED
            and row.attempt == message.attempt
            and row.celery_task_id == message.celery_task_id
        )
        assert (claim is not None) == (offered and not self.paused)
        if offered and self.paused:
            assert self.core.status(row.id) is Status.PENDING, "its message is gone"
        if claim is not None:
            assert claim.lease.attempt == row.attempt + 1
            self.hold(claim)

    def hold(self, claim: Claim) -> None:
        """Keep a new claim, whose plan can be read whatever the task has become since."""
        plan = self.plans.of_versions(claim.task_version_id, claim.agent_version_id)
        assert plan.agent_version_id == claim.agent_version_id
        self.held.append(claim)

    def record(self, claims: Sequence[Claim], *, losses: int, late: int) -> None:
        """Store a batch of each claim, sent again until an answer comes: stored exactly once."""
        batches = [
            PendingWrites(
                claim.lease,
                [NewEvent(EventType.CUSTOM), NewEvent(EventType.MESSAGE)],
                [ModelCall("p", "m", 1, 1)],
                number=self.batches[claim.lease.token] + 1,
            )
            for claim in claims
        ]
        holders = {claim.lease.execution_id: claim for claim in claims if self.holds(claim)}
        before = {key: self.core.get(key) for key in holders}
        self.forgetful.losses, self.forgetful.late = losses, late
        assert self._sent_until_answered(batches) == holders.keys()
        self.forgetful.settle()
        for key, claim in holders.items():
            self.batches[claim.lease.token] += 1
            now, was = self.core.get(key), before[key]
            assert now.event_seq == was.event_seq + 2
            assert (now.message_count, now.model_call_count, now.input_tokens) == (
                was.message_count + 1, was.model_call_count + 1, was.input_tokens + 1,
            )  # fmt: skip

    def _sent_until_answered(self, batches: Sequence[PendingWrites]) -> set[UUID]:
        while True:
            try:
                with self.forgetful.autocommit() as connection:
                    stored = leases.store_batch(connection, batches)
            except DatabaseUnavailableError:
                continue
            return stored

    def end(self, claim: Claim, name: str, *, turn: bool, losses: int, late: int = 0) -> None:
        outcome, wanted = OUTCOMES[name]
        row, holds = self.rows[claim.lease.execution_id], self.holds(claim)
        if row.cancelling and wanted in {Status.PENDING, Status.WAITING}:
            wanted = Status.CANCELLED
        self.forgetful.losses, self.forgetful.late = losses, late
        taking = self.core.next_claim() if turn else None
        finished = Finish(self.forgetful, self.core.live)(claim, outcome, (), taking)
        self.forgetful.settle()
        taken = None
        if finished.claim is not None:
            taken = self.rows[finished.claim.lease.execution_id]
            assert taken.status is Status.PENDING
            assert not self.paused
            self.hold(finished.claim)
        if holds:
            asks = isinstance(outcome, Parked) and outcome.questions
            at_once = finished.again and asks and finished.status is Status.PENDING
            assert finished.status is wanted or at_once, "only what was answered before goes on"
            assert taken is None or taken.id != row.id
            if asks and not row.cancelling:
                waits = any(each.execution_id == row.id for each in self.asked())
                assert self.core.status(row.id) is (Status.WAITING if waits else Status.PENDING)
        elif taken is None or taken.id != row.id:
            # whoever lost it may take it anew, under a new token, once it is pending again
            assert finished.status is None or finished.again
            changed = self.core.get(row.id)
            assert (changed.status, changed.event_seq) == (row.status, row.event_seq)
        if claim not in self.ghosts:
            self.ghosts.append(claim)
