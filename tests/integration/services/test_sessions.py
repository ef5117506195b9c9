"""Sessions in the database: who may go on with one, and how it follows its executions."""

from uuid import UUID, uuid4

import pytest

from celeriac.db import sessions
from celeriac.domain.agents import RunnerName
from celeriac.domain.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    SessionDeletedError,
    SessionInUseError,
)
from celeriac.domain.executions.model import (
    Claim,
    Completed,
    Failed,
    Failure,
    HandedBack,
    Idempotency,
    Retry,
    Stopped,
    SubmitRequest,
)
from celeriac.domain.executions.options import RunOptions
from celeriac.domain.sessions import Session, SessionStatus
from tests.support.catalog import make_colleague
from tests.support.core import Core
from tests.support.statements import sent
from tests.support.together import together

FAILURE = Failure("agent_failed", "The agent gave up.", {"type": "X", "attempt": 1})
FORK = RunOptions(fork_session=True)


def begin(core: Core, claim: Claim, *, runner: str = RunnerName.PYTHON) -> UUID:
    """Make a session for a running attempt, as its runner does."""
    with core.database.autocommit() as connection:
        made = sessions.begin(connection, claim.lease, runner=runner, parent_id=None)
    assert made is not None, "the lease must be held"
    return made


def read(core: Core, session_id: UUID) -> Session:
    with core.database.autocommit() as connection:
        found = sessions.get(connection, session_id, workspace=None)
    assert found is not None
    return found


def ended(core: Core) -> UUID:
    """Return a session whose execution has completed."""
    claim = core.running()
    session_id = begin(core, claim)
    core.finish(claim, Completed(1), (), None)
    return session_id


def going_on(core: Core, session_id: UUID, options: RunOptions | None = None) -> UUID:
    """Submit an execution that goes on with a session."""
    request = SubmitRequest(
        task_id=core.task, session_id=session_id, options=options or RunOptions()
    )
    return core.submit(core.actor, request).execution_id


@pytest.mark.requirement("A17")
def test_a_session_says_what_its_execution_failed_of(core: Core) -> None:
    claim = core.running()
    session_id = begin(core, claim)
    assert read(core, session_id).status is SessionStatus.ACTIVE
    core.finish(claim, Failed(FAILURE), (), None)
    session = read(core, session_id)
    assert session.status is SessionStatus.FAILED
    assert (session.error_code, session.error_message) == (FAILURE.code, FAILURE.message)
    core.assert_consistent()


def test_a_session_costs_no_statement_where_none_is_used(core: Core) -> None:
    claim = core.running()
    with sent(core.database) as statements:
        core.end(claim, Completed(1))
        core.queued()
    assert len(statements) == 2, "the end is one statement, and so is a new execution"


@pytest.mark.parametrize("outcome", [Completed(1), Stopped()])
def test_a_session_ends_with_its_execution(core: Core, outcome: Completed | Stopped) -> None:
    claim = core.running()
    session_id = begin(core, claim)
    core.finish(claim, outcome, (), None)
    session = read(core, session_id)
    assert (session.status, session.error_code) == (SessionStatus.ENDED, None)


@pytest.mark.parametrize("outcome", [Retry(FAILURE, 0.0), HandedBack()])
def test_a_session_stays_active_between_attempts(core: Core, outcome: Retry | HandedBack) -> None:
    claim = core.running()
    session_id = begin(core, claim)
    core.finish(claim, outcome, (), None)
    assert read(core, session_id).status is SessionStatus.ACTIVE
    with pytest.raises(SessionInUseError):
        going_on(core, session_id)
    # cancelled where no worker has it, the session is free again
    core.cancel(core.actor, [claim.lease.execution_id])
    assert read(core, session_id).status is SessionStatus.ENDED


def test_a_session_fails_with_the_last_worker(core: Core) -> None:
    claim = core.running()
    session_id = begin(core, claim)
    core.execute("UPDATE executions SET max_crashes = 1")
    core.pass_time(3600)
    assert core.rescue() == 1
    assert read(core, session_id).error_code == "worker_lost"


def test_one_execution_at_a_time_goes_on_with_a_session(core: Core) -> None:
    session_id = ended(core)

    def submit() -> object:
        try:
            return going_on(core, session_id)
        except SessionInUseError as error:
            return error

    answers = together([submit] * 6)
    assert sum(isinstance(answer, UUID) for answer in answers) == 1, answers
    winner = next(answer for answer in answers if isinstance(answer, UUID))
    session = read(core, session_id)
    assert session.status is SessionStatus.ACTIVE
    assert core.get(winner).session_id == session_id
    core.cancel(core.actor, [winner])
    going_on(core, session_id)


def test_a_session_can_be_forked_while_it_is_in_use(core: Core) -> None:
    session_id = ended(core)
    first = going_on(core, session_id)
    forks = [going_on(core, session_id, FORK) for _ in range(2)]
    # what happens to those that were to fork it is not the session's business
    core.cancel(core.actor, forks)
    assert read(core, session_id).status is SessionStatus.ACTIVE
    core.cancel(core.actor, [first])
    assert read(core, session_id).status is SessionStatus.ENDED


def test_a_fork_is_a_session_of_its_own(core: Core) -> None:
    session_id = ended(core)
    fork = going_on(core, session_id, FORK)
    claim = core.claim(core.message(fork))
    assert claim is not None
    with core.database.autocommit() as connection:
        own = sessions.begin(connection, claim.lease, runner="python", parent_id=session_id)
    assert own is not None
    with pytest.raises(SessionInUseError):
        going_on(core, own)
    core.finish(claim, Failed(FAILURE), (), None)
    assert read(core, own).status is SessionStatus.FAILED
    assert read(core, own).parent_id == session_id
    assert read(core, session_id).status is SessionStatus.ENDED, "the parent is left alone"


def test_bad_sessions_are_refused_and_nothing_is_stored(core: Core) -> None:
    session_id = ended(core)
    with pytest.raises(NotFoundError):
        going_on(core, uuid4())
    stranger = Core(core.database)
    with pytest.raises(NotFoundError):
        going_on(stranger, session_id)
    core.execute("UPDATE sessions SET runner = 'claude'")
    with pytest.raises(InvalidInputError, match="session of the same kind") as refused:
        going_on(core, session_id)
    assert refused.value.field == "session_id"
    with core.database.transaction() as connection:
        sessions.delete(connection, session_id)
    with pytest.raises(SessionDeletedError):
        going_on(core, session_id)
    with pytest.raises(InvalidInputError, match="fork"):
        core.submit.batch(
            core.actor, SubmitRequest(task_id=core.task, session_id=session_id), [{}, {}]
        )
    with core.database.autocommit() as connection:
        assert sessions.used_by(connection, session_id) is None


def test_a_refusal_leaves_the_idempotency_key_free(core: Core) -> None:
    session_id = ended(core)
    user = going_on(core, session_id)
    request = SubmitRequest(
        task_id=core.task, session_id=session_id, idempotency=Idempotency("key", "fingerprint")
    )
    with pytest.raises(SessionInUseError):
        core.submit(core.actor, request)
    core.cancel(core.actor, [user])
    made = core.submit(core.actor, request)
    assert made.created
    assert made.session_id == session_id
    assert core.submit(core.actor, request).execution_id == made.execution_id, (
        "in use by itself: the key finds it first"
    )


def test_members_of_a_workspace_go_on_with_each_other_s_sessions(core: Core) -> None:
    session_id = ended(core)
    colleague = make_colleague(core.database, core.actor)
    request = SubmitRequest(task_id=core.task, session_id=session_id)
    assert core.submit(colleague, request).session_id == session_id
    with pytest.raises(ConflictError):
        going_on(core, session_id)
