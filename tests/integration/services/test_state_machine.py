"""A machine that does to the core, in any order, what fleets and brokers do to it.

The broker drops, doubles and reorders; workers vanish and come back; answers of the database get
lost; people cancel; keepers look. After each step the tables must agree with each other and with
what the step could have done. At the end everything must still come to its end.

Time is moved by `Core.pass_time`, in steps that are far from every limit.
"""

import logging
from collections.abc import Iterator
from functools import partial
from itertools import count

import pytest
import structlog
from hypothesis import strategies as st
from hypothesis.stateful import (
    initialize,
    precondition,
    rule,
)

from celeriac.db.engine import Database
from celeriac.db.executions import leases
from celeriac.domain.agents import PythonAgent
from celeriac.domain.executions.model import SubmitRequest
from celeriac.domain.executions.pauses import PauseScope
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import DEFAULT_QUEUE, Priority
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.tasks import Tasks
from tests.support.asking_rules import AskingRules, index
from tests.support.core import LEASE_SECONDS
from tests.support.core_machine import OUTCOMES, SPEC, read_rows
from tests.support.forgetful import ForgetfulDatabase
from tests.support.machines import run_machine
from tests.support.memory import MemoryTaskQueue
from tests.support.pauses import OF_ALL_WORK

EXAMPLES, STEPS = 60, 100
lost = st.sampled_from([0, 0, 0, 1, 2])
"""How many answers get lost after the commit."""
cut = st.sampled_from([0, 0, 1])
"""How many answers get lost while the server still works."""
_deployments = count(1)
MOST_LIVE = 20
WORKERS = ("w", "v")


class CoreMachine(AskingRules):
    """The rules; what they do it to, and what must hold, is in `CoreWorld`."""

    # those who submit

    @initialize(count=st.integers(1, 6))
    def begin(self, count: int) -> None:
        """Hypothesis leaves rules out of whole runs; without this, most would be empty."""
        self.submit_batch(count)

    @rule(priority=st.sampled_from(Priority), delay=st.sampled_from([0.0, 15.0]))
    def submit(self, priority: Priority, delay: float) -> None:
        request = SubmitRequest(task_id=self.core.task, priority=priority, delay_seconds=delay)
        submitted = self.core.submit(self.core.actor, request)
        assert self.core.status(submitted.execution_id) is submitted.status

    @precondition(lambda self: len(self.live()) < MOST_LIVE)
    @rule(count=st.integers(1, 6))
    def submit_batch(self, count: int) -> None:
        self.core.pending_many([{}] * count)

    @precondition(lambda self: self.rows)
    @rule(
        picks=st.lists(index, min_size=1, max_size=3), ended=st.sampled_from([False] * 4 + [True])
    )
    def cancel(self, picks: list[int], ended: bool) -> None:
        rows = sorted(self.rows.values() if ended else self.live()) or sorted(self.rows.values())
        ids = list({rows[pick % len(rows)].id for pick in picks})
        answered = self.core.cancel(self.core.actor, ids)
        for key in ids:
            before = self.rows[key].status
            unheld = not before.terminal and before is not Status.RUNNING
            assert answered[key] is (Status.CANCELLED if unheld else before)

    # the broker

    @precondition(lambda self: self.depth())
    @rule(worker=st.sampled_from(WORKERS))
    def deliver(self, worker: str = WORKERS[0]) -> None:
        envelope = self.queue.take(DEFAULT_QUEUE)
        assert envelope is not None
        self.claim(envelope.message, worker)

    @precondition(lambda self: self.queue.sent)
    @rule(pick=index, worker=st.sampled_from(WORKERS))
    def deliver_again(self, pick: int, worker: str) -> None:
        self.claim(self.queue.sent[pick % len(self.queue.sent)].message, worker)

    @precondition(lambda self: self.queue.sent and not self.queue.away)
    @rule(pick=index)
    def double(self, pick: int) -> None:
        self.queue.send([self.queue.sent[pick % len(self.queue.sent)]])

    @precondition(lambda self: self.depth())
    @rule(everything=st.booleans())
    def drop(self, everything: bool) -> None:
        if everything:
            self.core.lose_messages()
        else:
            self.queue.take(DEFAULT_QUEUE)

    @precondition(lambda self: self.depth() > 1)
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
        self.core.dispatch.send_due()
        for _ in range(count):
            self.rows = read_rows(self.core.database)
            if self.depth():
                self.deliver()

    @precondition(lambda self: self.held)
    @rule(pick=index, outcome=st.sampled_from(sorted(OUTCOMES)), turn=st.booleans(),
          losses=lost, late=cut)  # fmt: skip
    def finish(self, pick: int, outcome: str, turn: bool, losses: int, late: int) -> None:
        claim = self.held.pop(pick % len(self.held))
        self.end(claim, outcome, turn=turn, losses=losses, late=late)

    @precondition(lambda self: self.held and len(self.live()) < MOST_LIVE)
    @rule(pick=index, losses=lost, late=cut)
    def finish_and_take_what_is_due(self, pick: int, losses: int, late: int) -> None:
        self.core.pending_many([{}])
        self.rows = read_rows(self.core.database)
        self.finish(pick, "complete", turn=True, losses=losses, late=late)

    @precondition(lambda self: self.ghosts)
    @rule(pick=index, outcome=st.sampled_from(sorted(OUTCOMES)))
    def finish_as_a_ghost(self, pick: int, outcome: str) -> None:
        self.end(self.ghosts[pick % len(self.ghosts)], outcome, turn=False, losses=0)

    @precondition(lambda self: self.held)
    @rule(pick=index)
    def vanish(self, pick: int) -> None:
        self.ghosts.append(self.held.pop(pick % len(self.held)))

    @precondition(lambda self: self.held or self.ghosts)
    @rule(picks=st.lists(index, min_size=1, max_size=4), losses=lost, late=cut)
    def write(self, picks: list[int], losses: int, late: int) -> None:
        self.record(self.some_claims(picks), losses=losses, late=late)

    @rule(worker=st.sampled_from(WORKERS))
    def beat(self, worker: str) -> None:
        """A worker renews its lease, late or in time, and learns what is its own."""
        identity = self.core.workers.get(worker)
        if identity is None:
            return
        with self.core.database.autocommit() as connection:
            renewed = leases.renew(connection, identity.id, lease_seconds=LEASE_SECONDS)
        running = [each for each in self.rows.values() if each.status is Status.RUNNING]
        own = {each.token: each.cancelling for each in running if each.worker == identity.id}
        if renewed is None:
            assert all(self.rows[each.id].expired for each in running if each.worker == identity.id)
            del self.core.workers[worker]
        else:
            assert {each.lease.token: each.cancelled for each in renewed.held} == own

    @rule(worker=st.sampled_from(WORKERS))
    def die(self, worker: str) -> None:
        """A worker process dies; another starts when it is needed."""
        self.core.workers.pop(worker, None)

    @precondition(lambda self: self.ghosts)
    @rule(worker=st.sampled_from(WORKERS))
    def hand_back_what_it_forgot(self, worker: str) -> None:
        """A worker hands back what it does not know of."""
        identity = self.core.workers.get(worker)
        for ghost in self.ghosts:
            row = self.rows[ghost.lease.execution_id]
            if identity is not None and row.worker == identity.id and self.holds(ghost):
                self.end(ghost, "hand back", turn=False, losses=0)
                self.rows = read_rows(self.core.database)

    # those who deploy

    @rule(another=st.booleans())
    def deploy(self, another: bool) -> None:
        """Give the task another agent, or its agent another version."""
        tasks, agents = Tasks(self.core.database), Agents(self.core.database)
        spec = PythonAgent(function=f"pkg.mod:f{next(_deployments)}")
        agent = tasks.get(self.core.actor, str(self.core.task)).agent_name
        if another:
            name = f"deployed-{next(_deployments)}"
            agents.create(self.core.actor, name=name, spec=spec)
            tasks.change(self.core.actor, str(self.core.task), agent=name)
        else:
            agents.change(self.core.actor, agent, spec=spec)

    # those who pause

    @rule(scope=st.sampled_from(OF_ALL_WORK), stays=st.sampled_from([False, False, True]),
          deliveries=st.integers(0, 2))  # fmt: skip
    def pause_something(self, scope: PauseScope, stays: bool, deliveries: int) -> None:
        self.pause(scope)
        if not self.queue.away:
            assert self.core.dispatch.send_due() == 0
        for _ in range(deliveries):
            self.rows = read_rows(self.core.database)
            if self.depth():
                self.deliver()
        if not stays:
            self.resume_all()

    @rule()
    def hold_and_release(self) -> None:
        self.pauses.hold()
        assert self.pauses.hold() == 0

    @precondition(lambda self: self.paused)
    @rule()
    def resume_what_is_paused(self) -> None:
        self.resume_all()

    # people, keepers and time

    @precondition(lambda self: self.waiting())
    @rule()
    def resume(self) -> None:
        assert self.core.resume() == len([row for row in self.waiting() if row.over])

    @rule()
    def dispatch(self) -> None:
        sent = len(self.queue.sent)
        count = 0 if self.queue.away else self.core.dispatch.send_due()
        assert len(self.queue.sent) == sent + count

    @rule()
    def release(self) -> None:
        """Release what is due, and nothing else."""
        due = [row for row in self.rows.values() if row.delayed_until_now]
        assert self.core.dispatch.release_due() == len(due)

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
        self.rows = read_rows(self.core.database)
        self.rescue()


@pytest.fixture
def quiet() -> Iterator[None]:
    """Nothing is logged: tens of thousands of losses are the point."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@pytest.fixture
def forgetful(shared_database: Database) -> Iterator[ForgetfulDatabase]:
    """The same database, whose answers can get lost."""
    database = ForgetfulDatabase(shared_database)
    yield database
    database.close()


@pytest.mark.requirement("A4", "B13")
@pytest.mark.timeout(600)  # a failure is shrunk before it is shown
def test_whatever_happens_everything_ends_once(
    shared_database: Database, forgetful: ForgetfulDatabase, quiet: None
) -> None:
    machine = partial(CoreMachine, shared_database, forgetful)
    run_machine(machine, examples=EXAMPLES, steps=STEPS)
