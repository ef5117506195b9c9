"""The keeper's jobs, as beat does them."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from structlog.testing import capture_logs

from celeriac.db.executions import queries
from celeriac.domain.errors import ConfigurationError
from celeriac.domain.executions.model import Completed, SubmitRequest
from celeriac.domain.executions.states import Status
from celeriac.services.operations.keeper import MaintenanceJob, MaintenanceRunner
from celeriac.settings import Settings
from celeriac.settings.sections import ApprovalSettings, KeeperSettings, RetentionSettings
from celeriac.wiring.core import CoreServices, build
from celeriac.wiring.keeper import KEEPER_CONNECTIONS, build_maintenance, build_notifications
from tests.support.asking import a_question, park
from tests.support.catalog import make_actor, make_task
from tests.support.outages import holding
from tests.support.waiting import wait_until
from tests.support.working import claim, finish


@contextmanager
def running(jobs: Sequence[MaintenanceJob]) -> Iterator[MaintenanceRunner]:
    runner = MaintenanceRunner(jobs)
    runner.ensure_running()
    try:
        yield runner
    finally:
        runner.close()


class Counted:
    """A job that counts its rounds, and does what a test says in each."""

    def __init__(self, work: Callable[[], int] = lambda: 0) -> None:
        self.rounds = 0
        self._work = work

    def __call__(self) -> int:
        self.rounds += 1
        return self._work()

    def job(self, name: str = "counted") -> MaintenanceJob:
        return MaintenanceJob(name, 0.01, self)


def test_the_keeper_removes_what_is_old_enough(container: CoreServices) -> None:
    """A few milliseconds are enough here."""
    settings = container.settings.model_copy(
        update={"retention": RetentionSettings(executions_days=1e-9)}
    )
    actor = make_actor(container.database)
    task = make_task(container.database, actor)
    kept, old = (container.submit(actor, SubmitRequest(task_id=task)).execution_id for _ in "ab")
    finish(container, claim(container, old), Completed(None))
    workdir = settings.home / "work" / str(old)
    workdir.mkdir(parents=True)
    container = replace(container, settings=settings)
    by_name = {each.name: each for each in build_maintenance(container)}
    assert by_name["retention"].work() == 1
    with container.database.autocommit() as connection:
        left = list(connection.execute(text("SELECT id FROM executions")).scalars())
    assert left == [kept], "the old one is gone, the live one is there"
    assert not workdir.exists()


def test_the_keeper_folds_what_workers_have_appended_to_usage(container: CoreServices) -> None:
    actor = make_actor(container.database)
    task = make_task(container.database, actor)
    with container.database.autocommit() as connection:
        for _ in range(3):
            connection.execute(
                text(
                    "INSERT INTO usage_deltas"
                    " (workspace_id, owner_id, day, task_id, provider, model, calls)"
                    " VALUES (:workspace, :owner, CURRENT_DATE, :task, 'p', 'm', 2)"
                ),
                {"workspace": actor.workspace_id, "owner": actor.user_id, "task": task},
            )
    settings = container.settings
    keeper = settings.keeper.model_copy(update={"batch_size": 2})
    small = replace(container, settings=settings.model_copy(update={"keeper": keeper}))
    by_name = {each.name: each for each in build_maintenance(small)}
    assert [by_name["fold_usage"].work() for _ in "ab"] == [3, 0]
    with container.database.autocommit() as connection:
        assert list(connection.execute(text("SELECT calls FROM usage_days")).scalars()) == [6]


def test_the_keeper_answers_what_nobody_answered(container: CoreServices) -> None:
    actor = make_actor(container.database)
    task = make_task(container.database, actor)
    asking = container.submit(actor, SubmitRequest(task_id=task)).execution_id
    park(container, asking, a_question(on_expiry="fail", expires_seconds=0.001))

    by_name = {each.name: each for each in build_maintenance(container)}
    wait_until(by_name["expire_approvals"].work, "its time is over")

    with container.database.autocommit() as connection:
        found = queries.get(connection, asking, workspace=None)
    assert found is not None
    assert (found.status, found.error_code) == (Status.FAILED, "approval_expired")
    assert "notify_of_approvals" not in by_name, "nobody is told without a webhook"


def test_links_are_sent_in_the_clear_to_no_webhook_outside(container: CoreServices) -> None:
    with pytest.raises(ConfigurationError, match="must begin with https"):
        build_notifications(
            replace(container, settings=with_webhook(container, "http://hooks.example.com"))
        )
    assert build_notifications(
        replace(container, settings=with_webhook(container, "https://hooks.example.com"))
    )


def test_a_webhook_without_a_public_url_is_warned_of(container: CoreServices) -> None:
    settings = with_webhook(container, "https://hooks.example.com")
    public = settings.model_copy(update={"public_url": "https://agents.example.com"})
    with capture_logs() as warned:
        build_notifications(replace(container, settings=settings))
    with capture_logs() as quiet:
        build_notifications(replace(container, settings=public))
    (line,) = warned
    assert (line["event"], line["log_level"]) == ("approvals.notices_without_links", "warning")
    assert "CELERIAC_PUBLIC_URL" in line["hint"]
    assert not quiet


def with_webhook(container: CoreServices, url: str) -> Settings:
    approvals = ApprovalSettings(webhook=url, webhook_secret=SecretStr("s" * 16))
    return container.settings.model_copy(
        update={"approvals": approvals, "secret_key": SecretStr("k" * 32)}
    )


def test_there_is_a_connection_for_each_job(container: CoreServices) -> None:
    settings = with_webhook(container, "https://hooks.example.com").model_copy(
        update={"keeper": KeeperSettings(ageing_seconds=600)}
    )
    jobs = build_maintenance(replace(container, settings=settings))
    assert {"notify_of_approvals", "raise_aged"} <= {job.name for job in jobs}
    assert len({job.name for job in jobs}) == len(jobs) == KEEPER_CONNECTIONS - 3


def test_a_job_that_fails_is_logged_tried_again_and_ends_no_other() -> None:
    def fail() -> int:
        raise RuntimeError("odd")

    failing, other = Counted(fail), Counted()
    with capture_logs() as logs, running([failing.job("failing"), other.job("other")]):
        wait_until(lambda: failing.rounds >= 3 and other.rounds >= 20, "both go on")
    failures = [line for line in logs if line["event"] == "keeper.job_failed"]
    assert {line["job"] for line in failures} == {"failing"}
    assert all(line["exc_info"] for line in failures), "with its traceback"
    assert failing.rounds < other.rounds, "it is tried again after growing pauses"


def test_a_job_that_hangs_holds_up_no_other_and_never_overlaps_itself() -> None:
    gate = threading.Event()
    hanging, other = Counted(lambda: int(gate.wait(60))), Counted()
    with running([hanging.job("hanging"), other.job("other")]) as runner:
        wait_until(lambda: other.rounds >= 20, "the other one goes on")
        runner.ensure_running()
        assert hanging.rounds == 1
        gate.set()
        wait_until(lambda: hanging.rounds > 1, "it goes on when it can")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_job_whose_thread_died_is_started_again() -> None:
    def die() -> int:
        if dying.rounds == 1:
            raise SystemExit
        return 0

    dying = Counted(die)
    with running([dying.job()]) as runner:

        def goes_on() -> bool:
            runner.ensure_running()
            return dying.rounds > 1

        wait_until(goes_on, "another thread does it")


def test_nothing_begins_after_the_end() -> None:
    counted = Counted()
    with running([counted.job()]):
        wait_until(lambda: counted.rounds, "it runs")
    rounds = counted.rounds
    assert not [each for each in threading.enumerate() if each.name.startswith("keeper-")]
    assert counted.rounds == rounds


def lost_execution(container: CoreServices) -> UUID:
    """Return an execution whose worker was lost long ago."""
    actor = make_actor(container.database)
    task = make_task(container.database, actor)
    execution_id = container.submit(actor, SubmitRequest(task_id=task)).execution_id
    claim(container, execution_id)
    with container.database.autocommit() as connection:
        connection.execute(text("UPDATE workers SET lease_until = now() - interval '1 h'"))
    return execution_id


def waiting_for_locks(container: CoreServices) -> int:
    with container.database.autocommit() as connection:
        query = text(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return int(connection.execute(query).scalar_one())


@pytest.mark.requirement("B13")
def test_jobs_that_wait_for_locks_hold_up_neither_rescues_nor_sending(
    container: CoreServices,
) -> None:
    """Tables that an operator has locked block the jobs that need them, and these alone."""
    lost = lost_execution(container)
    settings = container.settings.model_copy(
        update={"worker": container.settings.worker.model_copy(update={"lease_seconds": 4.0})}
    )
    keeper = build(settings, service="beat", connections=KEEPER_CONNECTIONS, lock_seconds=600)
    jobs = build_maintenance(keeper)
    lock = "LOCK TABLE budget_reservations, idempotency_keys IN ACCESS EXCLUSIVE MODE"

    def status() -> tuple[Status, int]:
        with container.database.autocommit() as connection:
            found = queries.get(connection, lost, workspace=None)
        assert found is not None
        return found.status, found.crash_count

    with ExitStack() as working, ExitStack() as locked:
        # before the jobs start: one of them runs every five minutes only
        locked.enter_context(holding(container.database.engine.url, lock))
        working.enter_context(running(jobs))
        wait_until(lambda: waiting_for_locks(container) == 2, "two jobs wait")
        wait_until(lambda: status() == (Status.QUEUED, 1), "it is rescued and sent again")
        assert waiting_for_locks(container) == 2
        locked.close()
        wait_until(lambda: waiting_for_locks(container) == 0, "they go on")
    keeper.close()
