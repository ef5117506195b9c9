"""What a running agent waits for outlives a database that is away for a moment."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from celeriac.db import sessions
from celeriac.db.engine import Database
from celeriac.domain.approvals import Question, QuestionKind
from celeriac.domain.executions.model import Claim
from celeriac.kit.ids import uuid7
from celeriac.services.approvals.ask import Questions
from celeriac.services.cassettes import CassetteStore
from celeriac.services.sessions import SessionStore
from tests.support.cassettes import recorded
from tests.support.core import Core
from tests.support.forgetful import ForgetfulDatabase
from tests.support.memory import MemoryLiveEvents
from tests.support.outages import read_only
from tests.support.spending import job_of
from tests.support.waiting import wait_until

QUESTION = Question(key="mail", kind=QuestionKind.TOOL, title="May it be sent?")


@pytest.fixture
def forgetful(core: Core) -> Iterator[ForgetfulDatabase]:
    """The core's database, which can lose answers."""
    database = ForgetfulDatabase(core.database)
    yield database
    database.close()


def begin(database: Database, claim: Claim) -> UUID:
    session_id = uuid7()
    sessions = SessionStore(database)
    asyncio.run(sessions.create(claim.lease, session_id, runner="python", parent_id=None))
    return session_id


def save(database: Database, claim: Claim, session_id: UUID) -> None:
    sessions = SessionStore(database)
    saving = sessions.save(claim.lease, session_id, number=1, external_id="x", state={"n": 1})
    asyncio.run(saving)


def record(database: Database, claim: Claim) -> None:
    interactions = [recorded("a", "b")]
    asyncio.run(
        CassetteStore(database).add(claim.lease, job_of(claim), interactions, complete=True)
    )


def ask(database: Database, claim: Claim) -> None:
    asyncio.run(Questions(database, MemoryLiveEvents())._store(claim.lease, QUESTION))


WORK: dict[str, Callable[[Database, Claim], Any]] = {
    "begin a session": begin,
    "save a session": lambda database, claim: save(database, claim, begin(database, claim)),
    "record a cassette": record,
    "ask a person": ask,
}


@pytest.mark.parametrize("what", WORK)
def test_a_database_that_cannot_write_for_a_moment_is_waited_for(core: Core, what: str) -> None:
    claim = core.running()
    with ThreadPoolExecutor(1) as thread, capture_logs() as logs:
        with read_only(core.database.engine.url):
            working = thread.submit(WORK[what], core.database, claim)
            wait_until(lambda: working.done() or len(logs) >= 1, "it has been refused")
        working.result(30)


@pytest.mark.parametrize("losses", [1, 2])
def test_a_session_whose_answer_got_lost_is_made_once(
    core: Core, forgetful: ForgetfulDatabase, losses: int
) -> None:
    claim = core.running()
    forgetful.losses = losses
    session_id = begin(forgetful, claim)
    forgetful.losses = losses
    save(forgetful, claim, session_id)
    assert core.count("sessions") == 1
    assert core.get(claim.lease.execution_id).session_id == session_id
    with core.database.autocommit() as connection:
        found = sessions.get(connection, session_id, workspace=None)
    assert found is not None
    assert (found.external_id, found.state) == ("x", {"n": 1})


def test_what_was_recorded_is_kept_once(core: Core, forgetful: ForgetfulDatabase) -> None:
    claim = core.running()
    for _ in range(2):
        forgetful.losses = 2
        record(forgetful, claim)
    found = asyncio.run(CassetteStore(core.database).load(claim.lease.execution_id))
    assert len(found.interactions) == 2


def test_answers_are_read_by_a_patient_agent(core: Core, forgetful: ForgetfulDatabase) -> None:
    execution_id = core.waiting()
    core.answer(execution_id)
    forgetful.losses = 2
    assert asyncio.run(Questions(forgetful, core.live).answers(execution_id))["mail"].approved
