"""Notes that need a row which others hold wait for it; nobody else's do."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from sqlalchemy import text

from celeriac.db.engine import Database
from celeriac.domain.executions.model import Claim, Completed
from celeriac.domain.executions.states import Status
from celeriac.domain.usage import ModelCall
from celeriac.services.executions.event_writer import EventWriter
from celeriac.services.executions.finish import Finish
from tests.integration.services.test_running import Process, custom_events, emit
from tests.support.attempts import AgentAttempt
from tests.support.core import Core
from tests.support.outages import holding
from tests.support.waiting import wait_until


@pytest.fixture
def impatient(shared_database: Database) -> Iterator[Database]:
    """The module's database, on which statements wait for locks shortly."""
    url = shared_database.engine.url.render_as_string(hide_password=False)
    opened = Database(url, connections=4, lock_seconds=0.3)
    yield opened
    opened.close()


@pytest.fixture
def process(core: Core, impatient: Database, tmp_path: Path) -> Process:
    """A worker process whose notes wait for locks shortly."""
    made = Process(core, tmp_path)
    made.event_writer = EventWriter(impatient, made.active, core.live)
    return made


def charge(attempt: AgentAttempt) -> None:
    asyncio.run(attempt.context.charge(ModelCall("p", "m", 1, 0)))


def locked(core: Core, *claims: Claim) -> AbstractContextManager[None]:
    """Hold the rows of executions in the block."""
    ids = ", ".join(f"'{claim.lease.execution_id}'" for claim in claims)
    query = f"SELECT id FROM executions WHERE id IN ({ids}) FOR UPDATE"
    return holding(core.database.engine.url, query)


def calls(core: Core, claim: Claim) -> int:
    return core.get(claim.lease.execution_id).model_call_count


def test_a_locked_row_holds_up_only_those_who_need_it(core: Core, process: Process) -> None:
    claims = [core.running() for _ in range(4)]
    attempts = [process.attempt(claim) for claim in claims]
    with (
        process.active.registered(attempts[0]),
        process.active.registered(attempts[1]),
        process.active.registered(attempts[2]),
        process.active.registered(attempts[3]),
    ):
        for attempt in attempts:
            charge(attempt)
        process.event_writer.flush()
        with locked(core, claims[0], claims[2]):
            for attempt in attempts:
                charge(attempt)
            process.event_writer.flush()
            assert [calls(core, claim) for claim in claims] == [1, 2, 1, 2]
            for attempt in attempts:
                emit(attempt, "later")
            process.event_writer.flush()
            assert [custom_events(core, claim) for claim in claims] == [
                [],
                ["later"],
                [],
                ["later"],
            ]
        process.event_writer.flush()
        process.event_writer.flush()
        process.event_writer.flush()
        assert [calls(core, claim) for claim in claims] == [2, 2, 2, 2]
        assert [custom_events(core, claim) for claim in claims] == [["later"]] * 4
    core.assert_consistent()


def test_an_end_does_not_wait_for_what_others_wait_for(
    core: Core, process: Process, shared_database: Database
) -> None:
    stuck, other = core.running(), core.running()
    attempts = [process.attempt(stuck), process.attempt(other)]
    patient = EventWriter(shared_database, process.active, core.live)  # its lock time-out is long
    with process.active.registered(attempts[0]), process.active.registered(attempts[1]):
        charge(attempts[0])
        process.event_writer.flush()
        charge(attempts[0])
        with ThreadPoolExecutor(1) as thread:
            with locked(core, stuck):
                flushing = thread.submit(patient.flush)
                wait_until(lambda: waiting(core), "the notes of one wait for a lock")
                emit(attempts[1], "a")
                finished = Finish(core.database, core.live)(
                    other, Completed(1), attempts[1].last_batches(), None
                )
                assert finished.status is Status.COMPLETED
                assert not flushing.done()
            flushing.result(30)
    assert custom_events(core, other) == ["a"]
    assert calls(core, stuck) == 2
    core.assert_consistent()


def waiting(core: Core) -> bool:
    """Whether any session of this database waits for a lock."""
    query = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with core.database.autocommit() as connection:
        return bool(connection.execute(query).scalar_one())
