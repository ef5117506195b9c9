"""A machine about questions alone: asked in parking and in place, answered, overdue, cancelled.

The machine of the whole core (`test_state_machine`) does all of this too, but seldom: here the
broker and the database are well, and every step is about what an execution waits for.
"""

from collections.abc import Iterator
from functools import partial

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from celeriac.db.engine import Database
from celeriac.domain.tasks import DEFAULT_QUEUE
from tests.integration.services.test_state_machine import quiet  # noqa: F401 - a fixture
from tests.support.asking_rules import AskingRules, index
from tests.support.core_machine import OUTCOMES, read_rows
from tests.support.forgetful import ForgetfulDatabase
from tests.support.machines import run_machine

EXAMPLES, STEPS = 40, 40
ASKS = sorted(name for name in OUTCOMES if name.startswith("ask"))


class AskingMachine(AskingRules):
    """Attempts that ask; the rules of answering are in `AskingRules`."""

    @initialize(outcomes=st.lists(st.sampled_from(ASKS), min_size=1, max_size=3))
    def begin(self, outcomes: list[str]) -> None:
        for outcome in outcomes:
            self.core.pending()
            self.attempt(outcome, asks_first=False)

    @rule(
        outcome=st.sampled_from([*ASKS, *ASKS, "park", "retry", "complete"]),
        asks_first=st.booleans(),
    )
    def attempt(self, outcome: str, asks_first: bool) -> None:
        """Have the next execution make an attempt, from its claim to this outcome."""
        self.take()
        if self.held and asks_first:
            self.ask_in_its_place(0, "pay")
            self.rows = read_rows(self.core.database)
        if self.held:
            self.end(self.held.pop(), outcome, turn=False, losses=0)

    @rule()
    def vanish(self) -> None:
        """Have the next execution lose its worker."""
        self.take()
        self.ghosts += self.held
        self.held.clear()
        self.core.pass_time(40.0)
        self.core.rescue()

    @precondition(lambda self: self.live())
    @rule(pick=index)
    def cancel(self, pick: int) -> None:
        live = sorted(self.live())
        self.core.cancel(self.core.actor, [live[pick % len(live)].id])

    @precondition(lambda self: any(row.timed for row in self.waiting()))
    @rule()
    def resume(self) -> None:
        self.core.resume()

    @rule()
    def pass_some_time(self) -> None:
        self.core.pass_time(20.0)

    @precondition(lambda self: len(self.live()) < len(OUTCOMES))
    @rule()
    def submit(self) -> None:
        self.core.pending()

    def take(self) -> None:
        self.core.dispatch.send_due()
        self.rows = read_rows(self.core.database)
        envelope = self.queue.take(DEFAULT_QUEUE)
        if envelope is not None:
            self.claim(envelope.message)
            self.rows = read_rows(self.core.database)


@pytest.fixture
def forgetful(shared_database: Database) -> Iterator[ForgetfulDatabase]:
    database = ForgetfulDatabase(shared_database)
    yield database
    database.close()


@pytest.mark.requirement("A4")
@pytest.mark.timeout(600)  # a failure is shrunk before it is shown
def test_whatever_is_asked_is_answered_once_and_lets_its_execution_go_on(
    shared_database: Database,
    forgetful: ForgetfulDatabase,
    quiet: None,  # noqa: F811 - the fixture
) -> None:
    machine = partial(AskingMachine, shared_database, forgetful)
    run_machine(machine, examples=EXAMPLES, steps=STEPS)
