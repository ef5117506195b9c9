"""Answers of the database that get lost: what was sent again is stored once."""

import asyncio
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import text

from celeriac.db.executions.leases import PendingWrites
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Claim, Completed
from celeriac.domain.executions.states import Status
from celeriac.domain.usage import ModelCall
from celeriac.services.executions.attempt import AttemptRegistry
from celeriac.services.executions.event_writer import EventWriter
from celeriac.services.executions.finish import Finish
from tests.support.attempts import AgentAttempt
from tests.support.core import Core
from tests.support.forgetful import ForgetfulDatabase

LOST = [(1, 0), (2, 0), (0, 1), (1, 1), (0, 2)]
"""How many answers get lost after the commit, and how many before it."""

USAGE = text(
    "SELECT sum(calls), sum(input_tokens), sum(output_tokens), sum(cost) FROM usage_entries"
)


@pytest.fixture
def forgetful(core: Core) -> Iterator[ForgetfulDatabase]:
    """The core's database, which can lose answers."""
    database = ForgetfulDatabase(core.database)
    yield database
    database.settle()
    database.close()


class Writing:
    """An attempt whose agent writes one message and one model call at a time."""

    def __init__(self, core: Core, forgetful: ForgetfulDatabase, workdir: Path) -> None:
        self.core = core
        self.claim: Claim = core.running()
        self.active = AttemptRegistry()
        self.event_writer = EventWriter(forgetful, self.active, core.live)
        self.attempt = AgentAttempt(core, self.claim, workdir)

    def write(self, *names: str) -> None:
        async def write() -> None:
            for name in names:
                await self.attempt.context.emit(
                    EventType.MESSAGE, {"role": "user", "content": name}
                )
                await self.attempt.context.charge(ModelCall("p", "m", 10, 5, cost=Decimal("0.5")))

        asyncio.run(write())

    def assert_stored_once(self, *names: str) -> None:
        execution_id, count = self.claim.lease.execution_id, len(names)
        stored = [each for each in self.core.events(execution_id) if each.type is EventType.MESSAGE]
        assert [each.data["content"] for each in stored] == list(names)
        row = self.core.get(execution_id)
        assert (row.message_count, row.model_call_count) == (count, count)
        assert (row.input_tokens, row.output_tokens) == (10 * count, 5 * count)
        assert row.cost == Decimal("0.5") * count
        assert self.core.count("model_calls") == count
        with self.core.database.autocommit() as connection:
            usage = tuple(connection.execute(USAGE).one())
        assert usage == (count, 10 * count, 5 * count, Decimal("0.5") * count)
        self.core.assert_consistent()


@pytest.fixture
def writing(core: Core, forgetful: ForgetfulDatabase, tmp_path: Path) -> Writing:
    return Writing(core, forgetful, tmp_path)


def until_stored(writing: Writing) -> None:
    """Flush as often as a worker would need to."""
    for _ in range(10):
        writing.event_writer.flush()


@pytest.mark.requirement("F2")
@pytest.mark.parametrize(("losses", "late"), LOST)
def test_a_batch_that_is_sent_again_is_stored_once(
    writing: Writing, forgetful: ForgetfulDatabase, losses: int, late: int
) -> None:
    with writing.active.registered(writing.attempt):
        writing.write("a", "b")
        forgetful.losses, forgetful.late = losses, late
        writing.event_writer.flush()
        writing.write("c")
        until_stored(writing)
        writing.write("d")
        until_stored(writing)
    writing.assert_stored_once("a", "b", "c", "d")


@pytest.mark.requirement("F2")
@pytest.mark.parametrize(("losses", "late"), LOST)
def test_the_last_batch_is_stored_once_with_the_end(
    writing: Writing, forgetful: ForgetfulDatabase, losses: int, late: int
) -> None:
    with writing.active.registered(writing.attempt):
        writing.write("a")
        forgetful.losses = 1
        writing.event_writer.flush()
        writing.write("b")
        last = writing.attempt.last_batches()
        forgetful.losses, forgetful.late = losses, late
        finished = Finish(forgetful, writing.core.live)(writing.claim, Completed(1), last, None)
    assert finished.status is Status.COMPLETED
    assert [len(batch.events) for batch in last] == [2, 2]
    writing.assert_stored_once("a", "b")


def test_a_flush_beside_the_end_stores_nothing_of_its_own(
    writing: Writing, forgetful: ForgetfulDatabase
) -> None:
    """An agent that was left behind may still write when the last batches are on their way."""
    with writing.active.registered(writing.attempt):
        writing.write("a")
        last = writing.attempt.last_batches()
        writing.write("too late")
        writing.event_writer.flush()
        Finish(forgetful, writing.core.live)(writing.claim, Completed(1), last, None)
    writing.assert_stored_once("a")


def test_the_next_attempt_counts_its_batches_anew(
    writing: Writing, core: Core, tmp_path: Path, forgetful: ForgetfulDatabase
) -> None:
    with writing.active.registered(writing.attempt):
        for name in "abc":
            writing.write(name)
            writing.event_writer.flush()
    core.pass_time(3600)
    core.rescue()
    core.pass_time(3600)
    again = Writing.__new__(Writing)
    again.__dict__.update(writing.__dict__)
    again.claim = core.claim_again(writing.claim)
    again.attempt = AgentAttempt(core, again.claim, tmp_path)
    with again.active.registered(again.attempt):
        again.write("d")
        again.event_writer.flush()
    again.assert_stored_once("a", "b", "c", "d")


def numbers(batches: Sequence[PendingWrites]) -> list[int]:
    return [batch.number for batch in batches]


def test_batches_are_numbered_without_gaps(writing: Writing) -> None:
    attempt = writing.attempt
    writing.write("a")
    first = attempt.next_batch()
    writing.write("b")
    assert attempt.next_batch() is first, "what was sent once must be sent again as it is"
    attempt.batch_stored()
    second = attempt.next_batch()
    assert first is not None
    assert second is not None
    writing.write("c")
    assert numbers([first, second, *attempt.last_batches()]) == [1, 2, 2, 3]
    assert attempt.next_batch() is None
