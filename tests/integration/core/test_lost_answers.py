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

USAGE = text("SELECT sum(calls), sum(input_tokens), sum(output_tokens), sum(cost) FROM usage_days")


@pytest.fixture
def forgetful(core: Core) -> Iterator[ForgetfulDatabase]:
    """The core's database, which can lose answers."""
    database = ForgetfulDatabase(core.database)
    yield database
    database.settle()
    database.close()


class Telling:
    """An attempt whose agent tells one message and one model call at a time."""

    def __init__(self, core: Core, forgetful: ForgetfulDatabase, workdir: Path) -> None:
        self.core = core
        self.claim: Claim = core.running()
        self.active = AttemptRegistry()
        self.event_writer = EventWriter(forgetful, self.active, core.live)
        self.attempt = AgentAttempt(core, self.claim, workdir)

    def tell(self, *names: str) -> None:
        async def telling() -> None:
            for name in names:
                await self.attempt.context.emit(
                    EventType.MESSAGE, {"role": "user", "content": name}
                )
                await self.attempt.context.charge(ModelCall("p", "m", 10, 5, cost=Decimal("0.5")))

        asyncio.run(telling())

    def assert_stored_once(self, *names: str) -> None:
        execution_id, count = self.claim.lease.execution_id, len(names)
        told = [each for each in self.core.events(execution_id) if each.type is EventType.MESSAGE]
        assert [each.data["content"] for each in told] == list(names)
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
def telling(core: Core, forgetful: ForgetfulDatabase, tmp_path: Path) -> Telling:
    return Telling(core, forgetful, tmp_path)


def until_stored(telling: Telling) -> None:
    """Flush as often as a worker would need to."""
    for _ in range(10):
        telling.event_writer.flush()


@pytest.mark.requirement("F2")
@pytest.mark.parametrize(("losses", "late"), LOST)
def test_a_batch_that_is_sent_again_is_stored_once(
    telling: Telling, forgetful: ForgetfulDatabase, losses: int, late: int
) -> None:
    with telling.active.registered(telling.attempt):
        telling.tell("a", "b")
        forgetful.losses, forgetful.late = losses, late
        telling.event_writer.flush()
        telling.tell("c")
        until_stored(telling)
        telling.tell("d")
        until_stored(telling)
    telling.assert_stored_once("a", "b", "c", "d")


@pytest.mark.requirement("F2")
@pytest.mark.parametrize(("losses", "late"), LOST)
def test_the_last_batch_is_stored_once_with_the_end(
    telling: Telling, forgetful: ForgetfulDatabase, losses: int, late: int
) -> None:
    with telling.active.registered(telling.attempt):
        telling.tell("a")
        forgetful.losses = 1
        telling.event_writer.flush()
        telling.tell("b")
        last = telling.attempt.last_batches()
        forgetful.losses, forgetful.late = losses, late
        finished = Finish(forgetful, telling.core.live)(telling.claim, Completed(1), last, None)
    assert finished.status is Status.COMPLETED
    assert [len(batch.events) for batch in last] == [2, 2]
    telling.assert_stored_once("a", "b")


def test_a_flush_beside_the_end_stores_nothing_of_its_own(
    telling: Telling, forgetful: ForgetfulDatabase
) -> None:
    """An agent that was left behind may still tell when the last batches are on their way."""
    with telling.active.registered(telling.attempt):
        telling.tell("a")
        last = telling.attempt.last_batches()
        telling.tell("too late")
        telling.event_writer.flush()
        Finish(forgetful, telling.core.live)(telling.claim, Completed(1), last, None)
    telling.assert_stored_once("a")


def test_the_next_attempt_counts_its_batches_anew(
    telling: Telling, core: Core, tmp_path: Path, forgetful: ForgetfulDatabase
) -> None:
    with telling.active.registered(telling.attempt):
        for name in "abc":
            telling.tell(name)
            telling.event_writer.flush()
    core.pass_time(3600)
    core.rescue()
    core.pass_time(3600)
    again = Telling.__new__(Telling)
    again.__dict__.update(telling.__dict__)
    again.claim = core.claim_again(telling.claim)
    again.attempt = AgentAttempt(core, again.claim, tmp_path)
    with again.active.registered(again.attempt):
        again.tell("d")
        again.event_writer.flush()
    again.assert_stored_once("a", "b", "c", "d")


def numbers(batches: Sequence[PendingWrites]) -> list[int]:
    return [batch.number for batch in batches]


def test_batches_are_numbered_without_gaps(telling: Telling) -> None:
    attempt = telling.attempt
    telling.tell("a")
    first = attempt.next_batch()
    telling.tell("b")
    assert attempt.next_batch() is first, "what was sent once must be sent again as it is"
    attempt.batch_stored()
    second = attempt.next_batch()
    assert first is not None
    assert second is not None
    telling.tell("c")
    assert numbers([first, second, *attempt.last_batches()]) == [1, 2, 2, 3]
    assert attempt.next_batch() is None
