"""An end sees what a statement stores that was at work when it began.

A statement sees what was committed before it began. If it waits for the row of an execution, it
does not see the questions and sessions that were stored meanwhile: so it must not be the first one
that waits.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, text

from celeriac.db import approvals, sessions
from celeriac.db.executions import lifecycle
from celeriac.db.executions.leases import PendingWrites
from celeriac.domain.errors import LeaseLostError
from celeriac.domain.executions.model import Claim, Completed, HandedBack
from celeriac.domain.executions.states import TRANSITIONS, Status
from celeriac.domain.sessions import SessionStatus
from celeriac.services.executions.attempt import Attempt, AttemptRegistry
from tests.support import statements
from tests.support.asking import a_question
from tests.support.core import LEASE_SECONDS, Core
from tests.support.ends import (
    ASKS,
    EXPIRES_SECONDS,
    WAYS,
    arrange,
    begin_session,
    deliveries,
    endpoint,
    rows,
)
from tests.support.together import together
from tests.support.waiting import wait_until

Write = Callable[[Connection, Claim], object]


def ask(connection: Connection, claim: Claim) -> object:
    return approvals.ask(connection, claim.lease, a_question("late"))


def begin(connection: Connection, claim: Claim) -> object:
    return sessions.begin(connection, claim.lease, runner="python", parent_id=None)


WRITES: dict[str, Write] = {"ask": ask, "begin a session": begin}


@contextmanager
def at_work(core: Core, write: Callable[[Connection], object]) -> Iterator[int]:
    """Do `write`, and commit it behind the block; yield the server process that does it."""
    with core.database.transaction() as connection:
        assert write(connection), "the lease must be held"
        yield connection.execute(text("SELECT pg_backend_pid()")).scalar_one()


def waits_for(core: Core, process: int) -> bool:
    query = "SELECT pid FROM pg_stat_activity WHERE :process = ANY(pg_blocking_pids(pid))"
    return bool(rows(core, query, process=process))


def ended_meanwhile(
    core: Core, write: Callable[[Connection], object], end: Callable[[], Any]
) -> Any:
    """Let `end` wait for `write`, and return what it returns then."""
    with ThreadPoolExecutor(1) as threads:
        with at_work(core, write) as process:
            ending: Future[Any] = threads.submit(end)
            wait_until(lambda: waits_for(core, process) or ending.done(), "the end waits")
            assert not ending.done(), "the end has not waited"
        return ending.result(60)


RUNNING = [name for name, way in WAYS.items() if way.source is Status.RUNNING and way.holds]
LOST = [name for name, way in WAYS.items() if way.source is Status.RUNNING and not way.holds]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("name", RUNNING)
def test_an_attempts_end_sees_what_the_attempt_still_stored(
    core: Core, name: str, write: str
) -> None:
    way, claim = WAYS[name], core.running()
    endpoint(core)
    if "cancelled" in name or name == "stop":
        # the request comes first: it is the attempt's end that has to wait
        core.cancel(core.actor, [claim.lease.execution_id])

    ended_meanwhile(
        core, lambda connection: WRITES[write](connection, claim), lambda: way.end(core, claim)
    )

    assert core.status(claim.lease.execution_id) is TRANSITIONS[way.transition][1]
    assert len(deliveries(core)) == 1
    core.assert_consistent()


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("name", LOST)
def test_a_lost_attempts_end_leaves_it_until_the_next_time_while_it_still_stores(
    core: Core, name: str, write: str
) -> None:
    way, claim = WAYS[name], core.running()
    core.pass_time(LEASE_SECONDS + 1)
    if "cancelled" in name:
        core.cancel(core.actor, [claim.lease.execution_id])
    core.execute("UPDATE executions SET max_crashes = 1")

    with at_work(core, lambda connection: WRITES[write](connection, claim)):
        assert core.rescue() == 0
    assert core.rescue() == 1

    assert core.status(claim.lease.execution_id) is TRANSITIONS[way.transition][1]
    core.assert_consistent()


@pytest.mark.parametrize("parks", [True, False])
def test_a_cancellation_sees_what_the_attempt_stored_that_ends_meanwhile(
    core: Core, parks: bool
) -> None:
    claim = core.running()
    execution_id = claim.lease.execution_id
    outcome = ASKS if parks else HandedBack()

    def leave(connection: Connection) -> object:
        begin(connection, claim)
        ask(connection, claim)
        return lifecycle.finish(connection, claim.lease, outcome).status

    ended_meanwhile(core, leave, lambda: core.cancel(core.actor, [execution_id]))

    assert core.status(execution_id) is Status.CANCELLED
    assert rows(core, "SELECT id FROM approvals WHERE status = 'withdrawn'")
    core.assert_consistent()


def test_a_session_that_is_saved_when_its_execution_ends_stays_ended(core: Core) -> None:
    claim = core.running()
    session_id = begin_session(core, claim)

    def save(connection: Connection) -> bool:
        active = SessionStatus.ACTIVE
        return sessions.save(
            connection, claim.lease, session_id, number=1, state={"n": 1}, status=active
        )

    def complete(connection: Connection) -> object:
        return lifecycle.finish(connection, claim.lease, Completed(1)).status

    saved = ended_meanwhile(core, complete, lambda: saves(core, save))

    assert saved is False
    assert rows(core, "SELECT status, state FROM sessions") == [("ended", None)]
    core.assert_consistent()


def saves(core: Core, save: Callable[[Connection], bool]) -> bool:
    with core.database.autocommit() as connection:
        return save(connection)


@pytest.mark.parametrize("name", WAYS)
def test_the_statement_that_ends_follows_one_that_locks(core: Core, name: str) -> None:
    claim, _ = arrange(core, WAYS[name].source)

    statements = sent(core, lambda: WAYS[name].end(core, claim))

    ends = [place for place, each in enumerate(statements) if "withdrawn AS" in each]
    begin = ends[-2] + 1 if len(ends) > 1 else 0  # there was a request to cancel before
    locks = re.compile("FOR (NO KEY )?UPDATE")
    assert [each for each in statements[begin : ends[-1]] if locks.search(each)]


def sent(core: Core, work: Callable[[], object]) -> list[str]:
    """Return the statements that `work` sends."""
    with statements.sent(core.database) as found:
        work()
    return found


def test_the_batches_of_an_attempt_lock_its_row(core: Core) -> None:
    claim = core.running()
    batch = PendingWrites(claim.lease, progress=(1.0, None, ""))

    statements = sent(core, lambda: core.finish(claim, Completed(1), [batch], None, has_rows=True))

    assert len(statements) == 2
    assert "FOR UPDATE OF e" in statements[0]


def test_a_completion_and_a_rescue_at_once_leave_the_traces_of_one(core: Core) -> None:
    endpoint(core)
    claims = [arrange(core, Status.RUNNING)[0] for _ in range(10)]
    core.execute("UPDATE executions SET max_crashes = 1")
    core.pass_time(LEASE_SECONDS + 1)

    together(
        [*(partial(core.end, each, Completed(1)) for each in claims), core.rescue, core.rescue]
    )

    assert_ended_once(core, claims)


def test_an_expiry_and_a_cancellation_at_once_leave_the_traces_of_one(core: Core) -> None:
    endpoint(core)
    claims = [arrange(core, Status.WAITING)[0] for _ in range(10)]
    core.pass_time(EXPIRES_SECONDS + 1)

    cancel = WAYS["cancel what waits"].end
    together([*(partial(cancel, core, each) for each in claims), core.expire, core.expire])

    assert_ended_once(core, claims)


def assert_ended_once(core: Core, claims: Sequence[Claim]) -> None:
    ids = [claim.lease.execution_id for claim in claims]
    assert [each for each in ids if not core.status(each).terminal] == []
    assert sorted(execution_id for _, execution_id, _ in deliveries(core)) == sorted(ids)
    core.assert_consistent()


def test_an_attempt_that_is_ending_stores_no_more_rows(core: Core) -> None:
    attempt, registry = Attempt(core.running().lease), AttemptRegistry()
    with registry.registered(attempt):
        registry.expect_rows(attempt.lease)
        assert attempt.has_rows
        attempt.last_batches()
        with pytest.raises(LeaseLostError):
            attempt.expect_rows()
    with pytest.raises(LeaseLostError):
        registry.expect_rows(attempt.lease)
