"""The lease of a worker process: renewal, loss, and what the process learns from it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from celeriac.db import approvals
from celeriac.db.engine import Connection, Database
from celeriac.db.executions import leases, lifecycle
from celeriac.db.executions.leases import Renewed
from celeriac.domain.accounts import Role
from celeriac.domain.errors import LeaseExpiredError, NotFoundError
from celeriac.domain.executions.model import Claim, Completed, Message
from celeriac.domain.executions.pauses import PauseScope, PauseTarget
from celeriac.domain.executions.states import Status
from celeriac.services.executions.attempt import Attempt, StopReason
from celeriac.services.executions.pauses import Pauses
from celeriac.services.executions.rescue import Recover
from tests.integration.services.test_running import Process
from tests.support.asking import a_question
from tests.support.core import ALWAYS, LEASE_SECONDS, Core
from tests.support.ends import begin_session
from tests.support.outages import holding
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("A9")


@pytest.fixture
def process(core: Core, tmp_path: Path) -> Process:
    return Process(core, tmp_path)


@pytest.fixture
def impatient(shared_database: Database) -> Iterator[Database]:
    url = shared_database.engine.url.render_as_string(hide_password=False)
    opened = Database(url, connections=1, lock_seconds=0.1)
    yield opened
    opened.close()


@contextmanager
def run_by(process: Process, *attempts: Attempt) -> Iterator[None]:
    """Run attempts in a process while the block runs."""
    with ExitStack() as stack:
        for attempt in attempts:
            stack.enter_context(process.active.registered(attempt))
        yield


def versions(core: Core) -> list[str]:
    """Return the row versions of all executions."""
    with core.database.autocommit() as connection:
        return [row[0] for row in connection.execute(text("SELECT xmin::text FROM executions"))]


def waits_for_lock(core: Core) -> bool:
    """Whether a statement waits for a lock that a transaction of a test holds."""
    query = text(
        "SELECT EXISTS (SELECT FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock')"
    )
    with core.database.autocommit() as connection:
        return bool(connection.execute(query).scalar_one())


def expires(core: Core, worker_id: UUID) -> object:
    with core.database.autocommit() as connection:
        query = text("SELECT lease_until FROM workers WHERE id = :id")
        return connection.execute(query, {"id": worker_id}).scalar_one()


def assert_cannot_claim(core: Core, process: Process, message: Message) -> None:
    worker = process.registration.worker
    with core.database.autocommit() as connection, pytest.raises(LeaseExpiredError):
        lifecycle.claim(connection, message, token=uuid4(), worker=worker)


def test_a_beat_writes_nothing_to_executions(core: Core, process: Process) -> None:
    attempts = [process.attempt(core.running()) for _ in range(3)]
    before, lease = versions(core), expires(core, core.workers["w"].id)
    with run_by(process, *attempts):
        process.heartbeat.beat()
    assert versions(core) == before
    assert expires(core, core.workers["w"].id) > lease  # type: ignore[operator]


def test_a_locked_row_delays_no_renewal(core: Core, process: Process) -> None:
    claims = [core.running() for _ in range(2)]
    attempts = [process.attempt(claim) for claim in claims]
    core.cancel(core.actor, [claim.lease.execution_id for claim in claims])
    lock = f"SELECT id FROM executions WHERE id = '{claims[0].lease.execution_id}' FOR UPDATE"
    core.pass_time(LEASE_SECONDS + 1)
    with run_by(process, *attempts), holding(core.database.engine.url, lock):
        process.heartbeat.beat()
    assert [each.stop_reason for each in attempts] == [StopReason.CANCELLED] * 2
    assert core.rescue() == 0, "the lease was not renewed"


def test_a_process_that_was_declared_lost_stops_all_and_begins_again(
    core: Core, process: Process
) -> None:
    attempts = [process.attempt(core.running()) for _ in range(2)]
    old = process.registration.worker
    core.pass_time(LEASE_SECONDS + 1)
    assert core.rescue() == 2
    with run_by(process, *attempts[:2]):
        process.heartbeat.beat()
    assert {each.stop_reason for each in attempts} == {StopReason.LEASE_LOST}
    assert process.registration.worker != old
    assert process.registration.worker.name == old.name
    claim = core.claiming_as(process.registration)(core.message(core.queued()), uuid4())
    assert claim is not None, "the new identity can't claim"
    assert core.rescue() == 0
    assert core.end(claim, Completed(1)).status is Status.COMPLETED


def test_a_late_beat_of_a_lost_worker_is_refused_even_if_not_all_is_rescued_yet(
    core: Core, process: Process
) -> None:
    attempts = [process.attempt(core.running()) for _ in range(3)]
    core.pass_time(LEASE_SECONDS + 1)
    assert core.recover.rescue_lost_workers(1) == 1
    with run_by(process, *attempts[:2]):
        process.heartbeat.beat()
    assert {each.stop_reason for each in attempts[:2]} == {StopReason.LEASE_LOST}
    assert core.rescue() == 2, "the others are rescued in the next round"
    core.assert_consistent()


def test_what_a_process_has_claimed_and_forgotten_is_handed_back(
    core: Core, process: Process
) -> None:
    running, forgotten, cancelled = (core.running() for _ in range(3))
    core.cancel(core.actor, [cancelled.lease.execution_id])
    attempt = process.attempt(running)
    with run_by(process, attempt):
        process.heartbeat.beat()
    assert attempt.stop_reason is None
    row = core.get(forgotten.lease.execution_id)
    assert (row.status, row.crash_count, row.retry_count) == (Status.PENDING, 0, 0)
    assert core.event_types(row.id)[-1] == "handed_back"
    assert core.status(cancelled.lease.execution_id) is Status.CANCELLED
    before = core.snapshot(row.id)
    core.end(forgotten, Completed(1))
    assert core.snapshot(row.id) == before, "a late result was stored"
    assert core.end(running, Completed(1)).status is Status.COMPLETED
    core.assert_consistent()


def test_a_claim_that_is_being_made_is_not_handed_back(core: Core, process: Process) -> None:
    message = core.message(core.queued())
    with process.active.claiming() as tokens:
        claim = core.claiming_as(process.registration)(message, tokens.new())
        process.heartbeat.beat()  # its answer may still be on the way
        assert core.status(message.execution_id) is Status.RUNNING
        tokens.new()  # for the next claim, while the attempt ends
        process.heartbeat.beat()
        assert core.status(message.execution_id) is Status.RUNNING
    process.heartbeat.beat()
    assert claim is not None
    assert core.status(message.execution_id) is Status.PENDING


def test_a_row_that_is_gone_is_written_again_and_what_runs_continues(
    core: Core, process: Process
) -> None:
    claim = core.running()
    attempt = process.attempt(claim)
    core.execute("DELETE FROM workers")
    with run_by(process, attempt):
        process.heartbeat.beat()
        process.heartbeat.beat()
    assert attempt.stop_reason is None
    assert core.rescue() == 0
    assert core.end(claim, Completed(1)).status is Status.COMPLETED


def test_what_a_worker_without_a_row_runs_is_rescued(core: Core) -> None:
    claim = core.running()
    core.execute("DELETE FROM workers")
    assert core.rescue() == 1
    assert core.get(claim.lease.execution_id).crash_count == 1


def test_a_claim_waits_for_an_expired_lease_to_be_renewed(core: Core, process: Process) -> None:
    message = core.message(core.queued())
    core.pass_time(LEASE_SECONDS + 1)
    before = core.snapshot(message.execution_id)
    assert_cannot_claim(core, process, message)
    assert core.snapshot(message.execution_id) == before
    with ThreadPoolExecutor(1) as thread:
        claiming = thread.submit(core.claiming_as(process.registration), message, uuid4())
        wait_until(lambda: process.heartbeat.is_due, "the claim asks for a beat")
        process.heartbeat.beat()
        claim = claiming.result(30)
    assert isinstance(claim, Claim)
    assert core.rescue() == 0
    core.assert_consistent()


def test_a_worker_without_a_lease_takes_no_next_one(core: Core) -> None:
    claim, following = core.running(), core.pending()
    taking = core.next_claim()
    core.pass_time(LEASE_SECONDS + 1)
    finished = core.finish(claim, Completed(1), (), taking)
    assert (finished.status, finished.claim) == (Status.COMPLETED, None)
    assert core.status(following) is Status.PENDING


def test_a_worker_that_stops_hands_back_what_it_has(core: Core, process: Process) -> None:
    claims = [core.running() for _ in range(2)]
    with run_by(process, process.attempt(claims[0])):
        process.heartbeat.sign_off()
    for claim in claims:
        row = core.get(claim.lease.execution_id)
        assert (row.status, row.crash_count) == (Status.PENDING, 0)
    assert core.rescue() == 0
    assert_cannot_claim(core, process, core.message(core.queued()))
    core.assert_consistent()


def test_what_a_stopped_worker_has_left_is_rescued(core: Core) -> None:
    claim = core.running()
    core.execute("UPDATE workers SET stopped_at = now()")
    assert core.rescue() == 1
    row = core.get(claim.lease.execution_id)
    assert (row.status, row.crash_count) == (Status.PENDING, 0), "it has not crashed"
    core.assert_consistent()


def test_a_claim_that_commits_during_a_sign_off_is_handed_back(
    core: Core, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker has listed what it runs, and has not stopped yet."""
    message, renew = core.message(core.queued()), leases.renew
    claims: list[object] = []

    def then_claims(connection: Connection, worker_id: UUID, **more: float) -> Renewed | None:
        renewed = renew(connection, worker_id, **more)
        claims.append(core.claiming_as(process.registration)(message, uuid4()))
        return renewed

    monkeypatch.setattr(leases, "renew", then_claims)
    process.heartbeat.sign_off()
    monkeypatch.undo()
    assert isinstance(claims[0], Claim)
    assert core.status(message.execution_id) is Status.RUNNING
    assert core.rescue() == 1
    row = core.get(message.execution_id)
    assert (row.status, row.crash_count) == (Status.PENDING, 0)
    core.assert_consistent()


def test_a_rescue_skips_a_renewal_that_is_being_written(core: Core) -> None:
    """A locked row of a worker delays neither the keeper nor other rescues."""
    core.running("slow")
    core.running("lost")
    core.pass_time(LEASE_SECONDS + 1)
    lock = "UPDATE workers SET lease_until = now() + interval '1 minute' WHERE hostname = 'slow'"
    with holding(core.database.engine.url, lock):
        assert core.rescue() == 1
    assert core.rescue() == 1, "the renewal was rolled back"


@pytest.mark.parametrize("locked", [0, 1])
def test_a_locked_row_keeps_no_other_from_being_handed_back(
    core: Core, process: Process, locked: int
) -> None:
    ids = [core.running().lease.execution_id for _ in range(2)]
    lock = f"SELECT id FROM executions WHERE id = '{ids[locked]}' FOR UPDATE"
    with holding(core.database.engine.url, lock):
        process.heartbeat.beat()  # before the lock time-out, or the next renewal would be late
        assert core.status(ids[1 - locked]) is Status.PENDING
    process.heartbeat.beat()
    assert core.status(ids[locked]) is Status.PENDING
    core.assert_consistent()


@pytest.mark.parametrize("locked", [0, 1])
def test_a_locked_row_keeps_no_worker_from_signing_off(
    core: Core, impatient: Database, tmp_path: Path, locked: int
) -> None:
    process = Process(core, tmp_path, heartbeat_database=impatient)
    ids = [core.running().lease.execution_id for _ in range(2)]
    lock = f"SELECT id FROM executions WHERE id = '{ids[locked]}' FOR UPDATE"
    with holding(core.database.engine.url, lock):
        process.heartbeat.sign_off()
        assert core.status(ids[1 - locked]) is Status.PENDING
    assert core.rescue() == 1, "the keeper takes what could not be handed back"
    assert [core.get(each).crash_count for each in ids] == [0, 0]
    core.assert_consistent()


def test_what_ends_during_a_beat_was_not_handed_back(
    core: Core, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its token is known no more when the answer of the renewal has come."""
    claim = core.running()
    tokens = process.active.tokens

    def tokens_after_the_end() -> set[UUID]:
        core.end(claim, Completed(1))
        return tokens()

    monkeypatch.setattr(process.active, "tokens", tokens_after_the_end)
    with capture_logs() as logs:
        process.heartbeat.beat()
    assert [line["event"] for line in logs] == []
    assert core.status(claim.lease.execution_id) is Status.COMPLETED


def test_a_claim_that_commits_after_its_worker_was_lost_is_rescued(
    core: Core, process: Process
) -> None:
    """The claim looks whether its worker is lost before it waits for the row."""
    core.running()
    message = core.message(core.queued())
    lock = f"SELECT id FROM executions WHERE id = '{message.execution_id}' FOR UPDATE"
    with ThreadPoolExecutor(1) as thread:
        with holding(core.database.engine.url, lock):
            claiming = thread.submit(core.claiming_as(process.registration), message, uuid4())
            wait_until(lambda: waits_for_lock(core), "the claim waits for the row")
            core.execute("UPDATE workers SET lease_until = now() - interval '1 second'")
            assert core.rescue() == 1, "the worker is declared lost"
        claim = claiming.result(30)
    assert claim is not None
    attempt = process.attempt(claim)
    with run_by(process, attempt):
        process.heartbeat.beat()
    assert attempt.stop_reason is StopReason.LEASE_LOST
    assert core.rescue() == 1
    row = core.get(message.execution_id)
    assert (row.status, row.crash_count) == (Status.PENDING, 1)
    assert core.end(claim, Completed(1)).status is None
    core.assert_consistent()


@pytest.mark.parametrize("table", ["sessions", "approvals"])
def test_a_locked_session_or_question_delays_no_other_rescue(
    core: Core, impatient: Database, table: str
) -> None:
    """An end closes the session and withdraws questions; who has locked them delays that end."""
    ended, other = core.running(), core.running()
    begin_session(core, ended)
    with core.database.autocommit() as connection:
        approvals.ask(connection, ended.lease, a_question())
    core.cancel(core.actor, [ended.lease.execution_id])
    core.pass_time(LEASE_SECONDS + 1)
    recover = Recover(impatient, core.queue, core.live, ALWAYS)
    with holding(core.database.engine.url, f"SELECT id FROM {table} FOR UPDATE"):
        assert recover.rescue_lost_workers(100) == 1
        assert core.status(other.lease.execution_id) is Status.PENDING
    assert recover.rescue_lost_workers(100) == 1
    assert core.status(ended.lease.execution_id) is Status.CANCELLED
    core.assert_consistent()


@pytest.mark.requirement("F15")
def test_a_paused_worker_gives_back_what_it_has_not_begun(core: Core, process: Process) -> None:
    process.heartbeat.beat()
    running = core.claiming_as(process.registration)(core.message(core.queued()), uuid4())
    assert running is not None
    node = process.registration.worker.node
    boss = replace(core.actor, role=Role.ADMIN, administrator=True)
    pauses = Pauses(core.database, core.dispatch)
    pause, _ = pauses.pause(boss, PauseTarget(PauseScope.WORKER, worker=node), "Kernel upgrade.")
    attempt = process.attempt(running)
    with run_by(process, attempt):
        process.heartbeat.beat()
        assert attempt.stop_reason is None, "what runs goes on"
    message = core.message(core.queued())
    assert core.claiming_as(process.registration)(message, uuid4()) is None
    given_back = core.get(message.execution_id)
    assert (given_back.status, given_back.held, given_back.attempt) == (Status.PENDING, None, 0)

    pauses.resume(boss, pause.id)
    process.heartbeat.beat()
    again = core.message(message.execution_id)
    assert core.claiming_as(process.registration)(again, uuid4()) is not None


def test_only_a_known_worker_can_be_paused(core: Core) -> None:
    boss = replace(core.actor, role=Role.ADMIN, administrator=True)
    pauses = Pauses(core.database, core.dispatch)
    with pytest.raises(NotFoundError, match="nobody@here"):
        pauses.pause(boss, PauseTarget(PauseScope.WORKER, worker="nobody@here"), "Why not.")
