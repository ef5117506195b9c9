"""A machine that does to the core, in any order, what fleets and brokers do to it.

The broker drops, doubles and reorders; workers vanish and come back; answers of the database get
lost; people cancel; keepers look. After each step the tables must agree with each other and with
what the step could have done. At the end everything must still come to its end.

Time is moved by `Core.pass_time`, in steps that are far from every limit.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from celeriac.adapters.memory import MemoryTaskQueue
from celeriac.db import leases
from celeriac.db.engine import Database
from celeriac.db.leases import Notes
from celeriac.db.transitions import Turn
from celeriac.domain.events import EventType, NewEvent
from celeriac.domain.execution import Claim, Message
from celeriac.domain.outcome import Completed, Failed, Failure, HandedBack, Outcome, Retry, Stopped
from celeriac.domain.states import Status
from celeriac.domain.task import DEFAULT_QUEUE, Priority, TaskSpec
from celeriac.services.finish import Finish
from celeriac.services.ports import Envelope
from celeriac.services.submit import Request
from tests.support.core import LEASE_SECONDS, Core
from tests.support.forgetful import ForgetfulDatabase

EXAMPLES, STEPS = 60, 100
MOST_LIVE = 20
SPEC = TaskSpec(max_crashes=2)
FAILURE = Failure("agent_failed", "it failed")
OUTCOMES: dict[str, tuple[Outcome, Status]] = {
    "complete": (Completed({"done": True}), Status.COMPLETED),
    "fail": (Failed(FAILURE), Status.FAILED),
    "retry": (Retry(FAILURE, 0.0), Status.PENDING),
    "retry later": (Retry(FAILURE, 15.0), Status.PENDING),
    "hand back": (HandedBack(), Status.PENDING),
    "stop": (Stopped(), Status.CANCELLED),
}
ROUNDS_TO_THE_END = 12

index = st.integers(min_value=0, max_value=10_000)
"""Picks one of what there is."""

_ROWS = text(
    "SELECT id, status, attempt, lease_token, lease_until < now() AS expired, crash_count,"
    " retry_count, cancel_requested_at IS NOT NULL AS cancelling, event_seq FROM executions"
)


class Row(NamedTuple):
    id: UUID
    status: Status
    attempt: int
    token: UUID | None
    expired: bool | None
    crash_count: int
    retry_count: int
    cancelling: bool
    event_seq: int


class RecordingQueue(MemoryTaskQueue):
    """Keeps every envelope that was ever sent, so that it can come again."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Envelope] = []

    def send(self, envelopes: Sequence[Envelope]) -> None:
        super().send(envelopes)
        self.sent.extend(envelopes)


class CoreMachine(RuleBasedStateMachine):
    def __init__(self, database: Database, forgetful: ForgetfulDatabase) -> None:
        super().__init__()
        with database.transaction() as connection:
            connection.execute(text("TRUNCATE executions, events, idempotency_keys, audit_logs"))
        self.queue = RecordingQueue()
        self.core = Core(database, SPEC, self.queue)
        self.forgetful = forgetful
        self.held: list[Claim] = []
        self.ghosts: list[Claim] = []
        """Claims of workers that have vanished, or that have ended already."""
        self.rows: dict[UUID, Row] = {}
        self.ended: dict[UUID, Row] = {}

    # those who submit

    @initialize(count=st.integers(1, 6))
    def begin(self, count: int) -> None:
        """Hypothesis leaves rules out of whole runs; without this, most would be empty."""
        self.submit_batch(count)

    @rule(priority=st.sampled_from(Priority), delay=st.sampled_from([0.0, 15.0]))
    def submit(self, priority: Priority, delay: float) -> None:
        request = Request(task_id=self.core.task, priority=priority, delay_seconds=delay)
        submitted = self.core.submit.one(self.core.actor, request)
        assert self.core.status(submitted.execution_id) is submitted.status

    @precondition(lambda self: len(self._live()) < MOST_LIVE)
    @rule(count=st.integers(1, 6))
    def submit_batch(self, count: int) -> None:
        self.core.pending_many([{}] * count)

    @precondition(lambda self: self.rows)
    @rule(
        picks=st.lists(index, min_size=1, max_size=3), ended=st.sampled_from([False] * 4 + [True])
    )
    def cancel(self, picks: list[int], ended: bool) -> None:
        rows = sorted(self.rows.values() if ended else self._live()) or sorted(self.rows.values())
        ids = list({rows[pick % len(rows)].id for pick in picks})
        told = self.core.cancel(self.core.actor, ids)
        for key in ids:
            before = self.rows[key].status
            unheld = not before.terminal and before is not Status.RUNNING
            assert told[key] is (Status.CANCELLED if unheld else before)

    # the broker

    @precondition(lambda self: self._depth())
    @rule()
    def deliver(self) -> None:
        envelope = self.queue.take(DEFAULT_QUEUE)
        assert envelope is not None
        self._claim(envelope.message)

    @precondition(lambda self: self.queue.sent)
    @rule(pick=index)
    def deliver_again(self, pick: int) -> None:
        self._claim(self.queue.sent[pick % len(self.queue.sent)].message)

    @precondition(lambda self: self.queue.sent and not self.queue.away)
    @rule(pick=index)
    def double(self, pick: int) -> None:
        self.queue.send([self.queue.sent[pick % len(self.queue.sent)]])

    @precondition(lambda self: self._depth())
    @rule(everything=st.booleans())
    def drop(self, everything: bool) -> None:
        if everything:
            self.core.lose_messages()
        else:
            self.queue.take(DEFAULT_QUEUE)

    @precondition(lambda self: self._depth() > 1)
    @rule()
    def reorder(self) -> None:
        envelopes = []
        while (envelope := self.queue.take(DEFAULT_QUEUE)) is not None:
            envelopes.append(envelope)
        MemoryTaskQueue.send(self.queue, envelopes[::-1])

    @rule()
    def leave_or_return(self) -> None:
        self.queue.away = not self.queue.away
        self.core.start_afresh()

    # workers

    @precondition(lambda self: self.rows and not self.queue.away)
    @rule(count=st.integers(1, 6))
    def fetch(self, count: int) -> None:
        self.core.dispatch.due()
        for _ in range(count):
            self.rows = self._read()
            if self._depth():
                self.deliver()

    @precondition(lambda self: self.held)
    @rule(pick=index, outcome=st.sampled_from(sorted(OUTCOMES)), turn=st.booleans(),
          losses=st.sampled_from([0, 0, 0, 1, 2]))  # fmt: skip
    def finish(self, pick: int, outcome: str, turn: bool, losses: int) -> None:
        claim = self.held.pop(pick % len(self.held))
        self._finish(claim, outcome, turn=turn, losses=losses)

    @precondition(lambda self: self.ghosts)
    @rule(pick=index, outcome=st.sampled_from(sorted(OUTCOMES)))
    def finish_as_a_ghost(self, pick: int, outcome: str) -> None:
        self._finish(self.ghosts[pick % len(self.ghosts)], outcome, turn=False, losses=0)

    @precondition(lambda self: self.held)
    @rule(pick=index)
    def vanish(self, pick: int) -> None:
        self.ghosts.append(self.held.pop(pick % len(self.held)))

    @precondition(lambda self: self.held or self.ghosts)
    @rule(picks=st.lists(index, min_size=1, max_size=4))
    def tell(self, picks: list[int]) -> None:
        claims = self._some_claims(picks)
        notes = [Notes(claim.lease, [NewEvent(EventType.CUSTOM, "{}")] * 2) for claim in claims]
        with self.core.database.statement() as connection:
            stored = leases.record(connection, notes)
        assert stored == {claim.lease.execution_id for claim in claims if self._holds(claim)}

    @precondition(lambda self: self.held or self.ghosts)
    @rule(picks=st.lists(index, min_size=1, max_size=6))
    def beat(self, picks: list[int]) -> None:
        claims = self._some_claims(picks)
        with self.core.database.statement() as connection:
            kept = leases.renew(connection, [c.lease for c in claims], lease_seconds=LEASE_SECONDS)
        held = [claim.lease.execution_id for claim in claims if self._holds(claim)]
        assert kept == {key: self.rows[key].cancelling for key in held}

    # keepers and time

    @rule()
    def dispatch(self) -> None:
        sent = len(self.queue.sent)
        count = 0 if self.queue.away else self.core.dispatch.due()
        assert len(self.queue.sent) == sent + count

    @rule()
    def rescue(self) -> None:
        expired = [
            row for row in self.rows.values() if row.status is Status.RUNNING and row.expired
        ]
        assert self.core.rescue() == len(expired)
        for row in expired:
            now = self.core.get(row.id)
            assert (now.crash_count, now.attempt) == (row.crash_count + 1, row.attempt)
            capped = now.crash_count >= SPEC.max_crashes
            uncancelled = Status.FAILED if capped else Status.PENDING
            assert now.status is (Status.CANCELLED if row.cancelling else uncancelled)

    @rule()
    def resend(self) -> None:
        self.core.resend()

    @rule()
    def pass_some_time(self) -> None:
        self.core.pass_time(20.0)

    @rule()
    def pass_a_lease_and_rescue(self) -> None:
        self.core.pass_time(40.0)
        self.rows = self._read()
        self.rescue()

    # what must hold

    @invariant()
    def holds_together(self) -> None:
        self.core.assert_consistent()
        before, self.rows = self.rows, self._read()
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
        self.held.clear()
        self.core.lose_messages()
        for _ in range(ROUNDS_TO_THE_END):
            self.core.pass_time(60.0)
            self.core.start_afresh()
            self.core.rescue()
            self.core.resend()
            self.core.pass_time(60.0)
            while self.core.dispatch.due():
                while (envelope := self.queue.take(DEFAULT_QUEUE)) is not None:
                    claim = self.core.claim(envelope.message)
                    if claim is not None:
                        self.core.end(claim, Completed({"done": True}))
            self.holds_together()
            if all(row.status.terminal for row in self.rows.values()):
                return
        left = [row for row in self.rows.values() if not row.status.terminal]
        assert not left, f"these would never have ended: {left}"

    # helpers

    def _read(self) -> dict[UUID, Row]:
        with self.core.database.statement() as connection:
            rows = connection.execute(_ROWS).all()
        return {row[0]: Row(row[0], Status(row[1]), *row[2:]) for row in rows}

    def _live(self) -> list[Row]:
        return [row for row in self.rows.values() if not row.status.terminal]

    def _some_claims(self, picks: list[int]) -> list[Claim]:
        """Pick claims; of one execution at most one, as a worker process has."""
        claims = self.held + self.ghosts
        picked = [claims[pick % len(claims)] for pick in picks]
        return list({claim.lease.execution_id: claim for claim in picked}.values())

    def _depth(self) -> int:
        return 0 if self.queue.away else self.queue.depth(DEFAULT_QUEUE)

    def _holds(self, claim: Claim) -> bool:
        row = self.rows[claim.lease.execution_id]
        return row.status is Status.RUNNING and row.token == claim.lease.token

    def _claim(self, message: Message) -> None:
        row = self.rows[message.execution_id]
        claim = self.core.claim(message)
        offered = row.status is Status.QUEUED and row.attempt == message.attempt
        assert (claim is not None) == offered
        if claim is not None:
            assert claim.lease.attempt == row.attempt + 1
            self.held.append(claim)

    def _finish(self, claim: Claim, name: str, *, turn: bool, losses: int) -> None:
        outcome, wanted = OUTCOMES[name]
        row, holds = self.rows[claim.lease.execution_id], self._holds(claim)
        if row.cancelling and wanted is Status.PENDING:
            wanted = Status.CANCELLED
        self.forgetful.losses = losses
        taking: Any = Turn(DEFAULT_QUEUE, "w", LEASE_SECONDS, "address") if turn else None
        finished = Finish(self.forgetful, self.core.live)(claim, outcome, None, taking)
        if holds:
            assert finished.status is wanted
        else:
            changed = self.core.get(row.id)
            assert (changed.status, changed.event_seq) == (row.status, row.event_seq)
        if finished.claim is not None:
            taken = self.rows[finished.claim.lease.execution_id]
            assert taken.status is Status.PENDING
            assert taken.id != row.id
            self.held.append(finished.claim)
        if claim not in self.ghosts:
            self.ghosts.append(claim)


@pytest.fixture
def quiet() -> Iterator[None]:
    """Nothing is logged: tens of thousands of losses are the point."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture
def forgetful(shared_database: Database) -> Iterator[ForgetfulDatabase]:
    """The same database, whose answers can get lost."""
    database = ForgetfulDatabase(shared_database)
    yield database
    database.close()


@pytest.mark.requirement("A4", "B13")
def test_whatever_happens_everything_ends_once(
    shared_database: Database, forgetful: ForgetfulDatabase, quiet: None
) -> None:
    run_state_machine_as_test(
        partial(CoreMachine, shared_database, forgetful),  # type: ignore[arg-type]
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
