"""How attempts end: once, with everything that belongs to it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import uuid4

import pytest
from sqlalchemy import Connection, text

from celeriac.db.engine import Database
from celeriac.db.executions import lifecycle
from celeriac.db.executions.leases import PendingWrites
from celeriac.db.executions.lifecycle import NextClaim
from celeriac.domain.executions.model import (
    Claim,
    Completed,
    Failed,
    Failure,
    HandedBack,
    Outcome,
    Retry,
    Stopped,
)
from celeriac.domain.executions.states import Status
from celeriac.domain.usage import ModelCall
from celeriac.services.executions.finish import Finish
from tests.support.core import Core
from tests.support.forgetful import ForgetfulDatabase

DETAILS = {"type": "LookupError", "traceback": "Traceback …", "attempt": 1}
FAILURE = Failure("agent_failed", "no such lead", DETAILS)
ENDS: list[tuple[Outcome, Status, str]] = [
    (Completed({"n": 1}), Status.COMPLETED, "completed"),
    (Failed(FAILURE), Status.FAILED, "failed"),
    (Stopped(), Status.CANCELLED, "cancelled"),
    (Retry(FAILURE, 2.0), Status.PENDING, "retry_scheduled"),
    (HandedBack(), Status.PENDING, "handed_back"),
]


@pytest.fixture
def forgetful(core: Core) -> Iterator[ForgetfulDatabase]:
    """The core's database, which can lose answers."""
    database = ForgetfulDatabase(core.database)
    yield database
    database.close()


def turn(core: Core) -> NextClaim:
    return core.next_claim()


@pytest.mark.parametrize(("outcome", "status", "event"), ENDS)
def test_an_end_is_written_with_its_event(
    core: Core, outcome: Outcome, status: Status, event: str
) -> None:
    claim = core.running()
    assert core.end(claim, outcome).status is status
    execution = core.get(claim.lease.execution_id)
    assert execution.status is status
    assert core.event_types(execution.id) == ["created", "queued", "started", event]
    core.assert_consistent()


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end[2])
@pytest.mark.parametrize("losses", [1, 2])
def test_an_end_whose_answer_got_lost_is_found(
    core: Core, forgetful: ForgetfulDatabase, end: tuple[Outcome, Status, str], losses: int
) -> None:
    outcome, status, event = end
    claim = core.running()
    forgetful.losses = losses
    finished = Finish(forgetful, core.live)(claim, outcome, (), None)
    assert finished.status is status
    assert core.event_types(claim.lease.execution_id)[3:] == [event], "it was written twice"
    core.assert_consistent()


@pytest.mark.requirement("A17")
def test_a_failure_is_audited_once_however_often_it_is_written(
    core: Core, forgetful: ForgetfulDatabase
) -> None:
    claim = core.running()
    forgetful.losses = 2
    Finish(forgetful, core.live)(claim, Failed(FAILURE), (), None)
    query = text("SELECT count(*) FROM audit_logs WHERE action = 'execution.fail'")
    with core.database.autocommit() as connection:
        assert connection.execute(query).scalar_one() == 1


@pytest.mark.requirement("A5", "A9")
def test_a_retry_counts_and_keeps_why(core: Core) -> None:
    claim = core.running()
    core.end(claim, Retry(FAILURE, 2.0))
    waiting = core.get(claim.lease.execution_id)
    assert (waiting.retry_count, waiting.crash_count, waiting.attempt) == (1, 0, 1)
    assert (waiting.error_code, waiting.error_message) == ("agent_failed", "no such lead")
    assert waiting.error_details == DETAILS
    assert core.dispatch.send_due() == 0, "it was sent before its time"
    core.pass_time(2.1)
    assert core.dispatch.send_due() == 1
    again = core.claim(core.message(waiting.id))
    assert again is not None
    assert (again.retry_count, again.lease.attempt) == (1, 2)
    core.end(again, Completed("done"))
    done = core.get(waiting.id)
    assert (done.status, done.result, done.error_code) == (Status.COMPLETED, "done", None)


@pytest.mark.parametrize("last", [Completed(None), Stopped()])
def test_an_end_without_a_result_leaves_no_details_of_an_earlier_error(
    core: Core, last: Outcome
) -> None:
    claim = core.running()
    core.end(claim, Retry(FAILURE, 0.0))
    core.end(core.claim_again(claim), last)
    done = core.get(claim.lease.execution_id)
    assert (done.result, done.error_type, done.error_details) == (None, None, None)


def test_only_what_is_not_empty_has_a_row_of_its_own(core: Core) -> None:
    core.end(core.running(), Completed(None))
    assert stored(core) == (0, 0)
    execution_id = core.pending({"lead": 1})
    core.dispatch.send_due()
    claim = core.claim(core.message(execution_id))
    assert claim is not None
    core.end(claim, Completed(2))
    assert stored(core) == (1, 1)


def stored(core: Core) -> tuple[int, int]:
    """Return how many executions have a row of variables, and one of what they produced."""
    query = text(
        "SELECT (SELECT count(*) FROM execution_inputs), (SELECT count(*) FROM execution_results)"
    )
    with core.database.autocommit() as connection:
        inputs, results = connection.execute(query).one()
    return inputs, results


@pytest.mark.parametrize("outcome", [Retry(FAILURE, 1.0), HandedBack()])
def test_what_would_run_again_is_cancelled_if_that_was_asked_for(
    core: Core, outcome: Outcome
) -> None:
    claim = core.running()
    core.cancel(core.actor, [claim.lease.execution_id])
    assert core.end(claim, outcome).status is Status.CANCELLED
    done = core.get(claim.lease.execution_id)
    assert (done.status, done.cancel_requested_by) == (Status.CANCELLED, core.actor.name)
    core.assert_consistent()


def test_a_result_that_came_before_the_cancellation_was_heard_counts(core: Core) -> None:
    claim = core.running()
    core.cancel(core.actor, [claim.lease.execution_id])
    assert core.end(claim, Completed(1)).status is Status.COMPLETED
    core.assert_consistent()


@pytest.mark.parametrize("text_", ["nul \x00", "\\u0000", "emoji 🌱", "\\\x00\\"])
def test_any_text_can_be_a_result(core: Core, text_: str) -> None:
    claim = core.running()
    core.end(claim, Completed({text_: [text_]}))
    kept = text_.replace("\x00", "�")
    assert core.get(claim.lease.execution_id).result == {kept: [kept]}


def test_a_turn_takes_the_next_pending_with_the_same_statement(core: Core) -> None:
    claim = core.running()
    following = core.pending_many([{"n": 1}, {"n": 2}])
    finished = core.finish(claim, Completed(1), (), turn(core))
    assert finished.claim is not None
    assert finished.claim.lease.execution_id == following[0]
    assert finished.claim.variables == {"n": 1}
    assert core.event_types(following[0]) == ["created", "queued", "started"]
    assert core.status(following[1]) is Status.PENDING
    assert core.end(finished.claim, Completed(2)).status is Status.COMPLETED
    core.assert_consistent()


def test_a_turn_takes_nothing_that_is_not_due_or_of_another_queue(core: Core) -> None:
    claim = core.running()
    later, elsewhere = core.pending_many([{}, {}])
    core.execute(
        "UPDATE executions SET available_at = now() + interval '1 h' WHERE id = :id", id=later
    )
    core.execute("UPDATE executions SET queue = 'default' WHERE id = :id", id=elsewhere)
    assert core.finish(claim, Completed(1), (), turn(core)).claim is None


@pytest.mark.parametrize("losses", [1, 2, 3])
def test_a_turn_whose_answer_got_lost_is_found(
    core: Core, forgetful: ForgetfulDatabase, losses: int
) -> None:
    claim = core.running()
    following = core.pending_many([{}, {}])
    forgetful.losses = losses
    finished = Finish(forgetful, core.live)(claim, Completed(1), (), turn(core))
    assert finished.status is Status.COMPLETED
    assert finished.claim is not None
    assert finished.claim.lease.execution_id == following[0]
    assert core.status(following[1]) is Status.PENDING, "a second one was taken and forgotten"
    core.assert_consistent()


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end[2])
@pytest.mark.parametrize("losses", [0, 1])
def test_a_turn_is_found_that_the_server_was_still_at(
    core: Core, forgetful: ForgetfulDatabase, end: tuple[Outcome, Status, str], losses: int
) -> None:
    """The connection is cut while the statement runs: nothing of it can be seen at first."""
    outcome, status, event = end
    claim = core.running()
    following = core.pending()
    forgetful.late, forgetful.losses = 1, losses
    finished = Finish(forgetful, core.live)(claim, outcome, (), turn(core))
    forgetful.settle()
    assert finished.status is status
    assert core.event_types(claim.lease.execution_id)[3:] == [event], "it was written twice"
    assert finished.claim is not None, "a claim that nobody knows of"
    assert finished.claim.lease == core.lease(following)
    core.assert_consistent()


def test_a_finish_that_the_server_comes_to_late_takes_nothing(core: Core) -> None:
    claim = core.running()
    following = core.pending()
    core.end(claim, Completed(1))
    with core.database.autocommit() as connection:
        late = lifecycle.finish(connection, claim.lease, Completed(1), turn(core))
    assert (late.again, late.claim) == (True, None)
    assert core.status(following) is Status.PENDING


@pytest.mark.parametrize("losses", [1, 2, 3])
def test_a_claim_whose_answer_got_lost_is_found(
    core: Core, forgetful: ForgetfulDatabase, losses: int
) -> None:
    message = core.message(core.queued())
    forgetful.losses = losses
    claim = core.claiming(database=forgetful)(message, uuid4())
    assert isinstance(claim, Claim)
    assert claim.lease == core.lease(message.execution_id)
    assert core.end(claim, Completed(1)).status is Status.COMPLETED
    core.assert_consistent()


def test_a_double_stays_a_double_when_answers_get_lost(
    core: Core, forgetful: ForgetfulDatabase
) -> None:
    message = core.message(core.queued())
    assert core.claim(message) is not None
    forgetful.losses = 1
    claim = core.claiming(database=forgetful)(message, uuid4())
    assert claim is None


class FaultyDatabase(Database):
    """The database of another `Database`; its next units of work end with errors."""

    def __init__(self, original: Database, errors: Sequence[str | Exception]) -> None:
        super().__init__(original.engine.url.render_as_string(hide_password=False), connections=2)
        self.errors = list(errors)

    @contextmanager
    def autocommit(self) -> Iterator[Connection]:
        with super().autocommit() as connection:
            self._fail(connection)
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with super().transaction() as connection:
            self._fail(connection)
            yield connection

    def _fail(self, connection: Connection) -> None:
        error = self.errors.pop(0) if self.errors else None
        if isinstance(error, Exception):
            raise error
        if error is not None:
            raising = f"DO $$ BEGIN RAISE 'odd' USING ERRCODE = '{error}'; END $$"
            connection.execute(text(raising))


@pytest.mark.parametrize("error", ["58030", "42501", "XX000", "26000", MemoryError()])
@pytest.mark.parametrize("with_notes", [False, True])
def test_a_result_outlives_an_error_that_passes(
    core: Core, error: str | Exception, with_notes: bool
) -> None:
    claim = core.running()
    following = core.pending()
    faulty = FaultyDatabase(core.database, [error, error])
    notes = [PendingWrites(claim.lease, number=1)] if with_notes else []
    finished = Finish(faulty, core.live)(claim, Completed({"n": 1}), notes, turn(core))
    faulty.close()
    assert finished.instead is None
    assert core.get(claim.lease.execution_id).result == {"n": 1}
    assert core.status(claim.lease.execution_id) is Status.COMPLETED
    assert core.status(following) is Status.PENDING
    core.assert_consistent()


@pytest.mark.parametrize("error", ["58030", "42501", "XX000", "26000"])
def test_notes_outlive_an_error_that_passes_after_they_were_refused(core: Core, error: str) -> None:
    claim = core.running()
    notes = PendingWrites(claim.lease, number=1)
    notes.calls.append(ModelCall("p", "m", 10, 5, made=time.monotonic()))
    faulty = FaultyDatabase(core.database, ["22P05", error])
    Finish(faulty, core.live)(claim, Completed(1), [notes], None)
    faulty.close()
    row = core.get(claim.lease.execution_id)
    assert (row.status, row.model_call_count) == (Status.COMPLETED, 1)
