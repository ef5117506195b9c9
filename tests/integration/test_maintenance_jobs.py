"""What beat does by itself is visible: one row for each job."""

from dataclasses import dataclass, field, replace

import pytest
from sqlalchemy import text

from celeriac.db.engine import Database
from celeriac.domain.accounts import Actor, Role
from celeriac.domain.errors import ForbiddenError
from celeriac.domain.operations import JobReport, JobRow
from celeriac.embedded.home import reserve_port
from celeriac.services.operations.keeper import MaintenanceJob, MaintenanceRunner
from celeriac.services.operations.maintenance import JobRecord, MaintenanceJobs
from celeriac.wiring.core import CoreServices
from tests.support.catalog import make_actor
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("A19", "D9")


REPORT = JobReport(
    name="fold",
    host="shop-1",
    interval_seconds=5.0,
    seconds=2.0,
    next_in=3.0,
    done=1,
    failures=0,
    error=None,
)


@pytest.fixture
def administrator(container: CoreServices) -> Actor:
    return make_actor(container.database, role=Role.ADMIN)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Recorded:
    """A record of one job, whose clock a test sets."""

    database: Database
    administrator: Actor
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.record = JobRecord(self.database, ["fold"], now=self.clock)

    def ended(self, *, done: int = 0, failures: int = 0, error: str | None = None) -> JobRow:
        """Record a run and return the row."""
        self.record(replace(REPORT, done=done, failures=failures, error=error))
        return self.row()

    def row(self) -> JobRow:
        (row,) = MaintenanceJobs(self.database).find(self.administrator)
        return row


@pytest.fixture
def recorded(container: CoreServices, administrator: Actor) -> Recorded:
    return Recorded(container.database, administrator)


def test_a_run_is_stored_with_its_times(recorded: Recorded) -> None:
    row = recorded.ended(done=7)
    assert (row.name, row.host, row.done, row.failures, row.error) == ("fold", "shop-1", 7, 0, None)
    assert (row.ended_at - row.started_at).total_seconds() == pytest.approx(2)
    assert (row.next_at - row.ended_at).total_seconds() == pytest.approx(3)
    assert row.succeeded_at == row.ended_at
    assert not row.late


def test_a_job_that_works_is_stored_once_a_minute(recorded: Recorded) -> None:
    recorded.ended(done=1)
    recorded.clock.now = 59
    assert recorded.ended(done=2).done == 1
    recorded.clock.now = 60
    assert recorded.ended(done=3).done == 3


def test_a_failure_and_its_end_are_stored_at_once(recorded: Recorded) -> None:
    worked = recorded.ended(done=1)
    failed = recorded.ended(failures=1, error="ValueError: " + "x" * 1_000)
    assert failed.failures == 1
    assert failed.error is not None
    assert failed.error.startswith("ValueError: x")
    assert len(failed.error) == 500
    assert failed.succeeded_at == worked.succeeded_at
    assert recorded.ended(failures=2, error="again").failures == 1, "once a minute"
    well = recorded.ended(done=2)
    assert (well.failures, well.error, well.done) == (0, None, 2)


def test_no_secret_of_an_error_is_stored(recorded: Recorded) -> None:
    secret = "hunter" + "2hunter2"
    failed = recorded.ended(failures=1, error=f"can't connect to postgresql://me:{secret}@host/db")
    assert failed.error is not None
    assert secret not in failed.error


def test_a_job_that_does_not_run_is_late(container: CoreServices, recorded: Recorded) -> None:
    recorded.ended()
    for minutes, late in ((2, False), (4, True)):
        with container.database.autocommit() as connection:
            connection.execute(
                text(
                    "UPDATE maintenance_jobs SET next_at = now() - make_interval(mins => :minutes)"
                ),
                {"minutes": minutes},
            )
        assert recorded.row().late is late


def test_jobs_that_nobody_runs_any_more_are_forgotten(
    container: CoreServices, administrator: Actor
) -> None:
    with container.database.autocommit() as connection:
        connection.execute(
            text("""
                INSERT INTO maintenance_jobs
                    (name, host, interval_seconds, ended_at, done, failures)
                VALUES ('gone', 'h', 1, now() - interval '2 hours', 0, 0),
                       ('of another release', 'h', 1, now() - interval '1 minute', 0, 0)
            """)
        )
    JobRecord(container.database, ["fold"])(REPORT)
    found = MaintenanceJobs(container.database).find(administrator)
    assert [each.name for each in found] == ["fold", "of another release"]


def test_without_the_database_the_next_run_is_stored(
    container: CoreServices, administrator: Actor
) -> None:
    closed = Database(f"postgresql+psycopg://u@127.0.0.1:{reserve_port()}/none", connections=1)
    record = JobRecord(closed, ["fold"])
    record(REPORT)
    record._database = container.database
    record(REPORT)
    (row,) = MaintenanceJobs(container.database).find(administrator)
    assert row.done == 1


def test_the_keeper_records_its_jobs(container: CoreServices, administrator: Actor) -> None:
    def fails() -> int:
        raise ValueError("out of range")

    jobs = [MaintenanceJob("counts", 60.0, lambda: 3), MaintenanceJob("fails", 60.0, fails)]
    runner = MaintenanceRunner(jobs, JobRecord(container.database, [each.name for each in jobs]))
    runner.ensure_running()
    shown = MaintenanceJobs(container.database)
    try:
        wait_until(lambda: len(shown.find(administrator)) == 2, "both have ended")
    finally:
        runner.close()
    counts, failed = shown.find(administrator)
    assert (counts.done, counts.failures) == (3, 0)
    assert (failed.done, failed.failures, failed.error) == (0, 1, "ValueError: out of range")
    assert failed.succeeded_at is None


def test_only_administrators_see_them(container: CoreServices) -> None:
    other = make_actor(container.database)
    with pytest.raises(ForbiddenError):
        MaintenanceJobs(container.database).find(other)
