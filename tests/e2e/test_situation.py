"""A day in the life: things break one by one, and the situation report says which, and what helps.

Real processes on servers of their own; servers are also frozen, so that they answer nothing at all.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from uuid import UUID

import pytest
from sqlalchemy import text

from celeriac import wire
from celeriac.client import Client, ClientError
from celeriac.db.engine import CONNECT_SECONDS
from celeriac.domain.doctor import Code
from celeriac.domain.doctor import Level as Diagnosis
from celeriac.domain.executions.states import Status
from celeriac.domain.sitrep import Level
from celeriac.services.doctor.examine import CHECK_SECONDS
from tests.support.alerts import Alerts
from tests.support.every_endpoint import EveryEndpoint, every_endpoint
from tests.support.fixtures import migrated_database
from tests.support.fleet import UNHURRIED, Fleet, running_fleet
from tests.support.places import temporary_directory
from tests.support.programs import Program
from tests.support.servers import (
    PostgresServer,
    RunningServer,
    ValkeyServer,
    running_postgres,
    running_valkey,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("D1", "D5", "A23")

BOUND_SECONDS = 10.0
"""An answer takes at most two seconds on a machine that is not busy with other tests."""

STATEMENT_SECONDS = 1
ANSWER_SECONDS = 2 * STATEMENT_SECONDS + CONNECT_SECONDS
"""The bound of requests in docs/operations.md, with a shorter limit of statements."""

QUICK = {
    "CELERIAC_API_STATEMENT_SECONDS": str(STATEMENT_SECONDS),
    "CELERIAC_SITREP_NO_WORKER_SECONDS": "0.2",
    "CELERIAC_SITREP_QUEUE_SECONDS": "1",
    "CELERIAC_SITREP_QUEUE_CRITICAL_SECONDS": "1000",
    "CELERIAC_SITREP_FAILURE_RUNS": "4",
    "CELERIAC_SITREP_SCHEDULE_SECONDS": "1",
    "CELERIAC_SITREP_APPROVAL_SECONDS": "1",
    "CELERIAC_SITREP_KEEPER_SECONDS": "1000",
}

METRICS_TOKEN = "scrapes of tests alone: 0123456789abcdef"


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that the test may freeze and kill."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A Valkey that the test may freeze and kill."""
    with running_valkey() as server:
        yield server


@pytest.fixture
def fleet(own_postgres: PostgresServer, own_valkey: ValkeyServer) -> Iterator[Fleet]:
    """A fleet on them."""
    url = own_postgres.url(migrated_database(own_postgres))
    with (
        temporary_directory() as home,
        running_fleet(home, database_url=url, redis_url=own_valkey.url()) as made,
    ):
        yield made


@pytest.fixture
def client(fleet: Fleet) -> Iterator[Client]:
    """The client of an administrator."""
    token = fleet.key()
    address = fleet.address_of(fleet.api(**QUICK, CELERIAC_API_METRICS_TOKEN=METRICS_TOKEN))
    with Client(address, api_key=token, timeout=BOUND_SECONDS) as made:
        yield made


@pytest.fixture
def alerts(client: Client) -> Iterator[Alerts]:
    """The shipped alert rules; a test asks `check` at its end what they said at its stations."""
    with Alerts(client.base_url, METRICS_TOKEN) as made:
        yield made


FAILING = ("failure_rate_high", "tasks_failing")
"""What the report has once two tasks have failed and not completed."""


def codes(report: wire.Sitrep) -> set[str]:
    return {each.code for each in report.problems}


def reported(client: Client, *wanted: str, scope: str = "workspace") -> wire.Sitrep:
    """Return the first report whose problems are these, each with a cure and a page about it."""
    seen: list[wire.Sitrep] = []

    def found() -> bool:
        seen.append(client.sitrep(scope=scope))
        return codes(seen[-1]) == set(wanted)

    try:
        wait_until(found, f"the report has {wanted}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it has {seen[-1].problems}") from error
    for problem in seen[-1].problems:
        assert problem.cure
        assert problem.link.startswith("docs/runbook.md#")
    return seen[-1]


def comes_back(fleet: Fleet, client: Client, alerts: Alerts, group: wire.FailureGroup) -> None:
    """A failure that was resolved happens again; then it is known."""
    client.failures.change(group.id, state="resolved", note="Fixed in 2.1.")
    again = fleet.submit(group.task_id, diary=str(fleet.diary), times=9)
    fleet.wait_terminal([again])
    report = reported(client, *FAILING, "failure_regressed")
    assert any("--state regressed" in each.cure for each in report.problems)
    assert client.failures.get(group.id).last_execution_id == again
    alerts.see(
        "CeleriacFailuresRegressed", metric="celeriac_failure_groups", state="regressed", value=1
    )
    client.failures.change(group.id, state="known")
    reported(client, *FAILING)


def test_a_day_in_the_life(fleet: Fleet, client: Client, alerts: Alerts) -> None:
    assert reported(client).level is Level.WELL
    # nobody works
    note, diary = fleet.task("note"), str(fleet.diary)
    first = fleet.submit(note, diary=diary)
    report = reported(client, "no_worker_for_queue")
    assert report.level is Level.CRITICAL
    assert "celeriac worker -Q task_execution" in report.problems[0].cure
    alerts.see(
        "CeleriacKeeperSilent",  # none has ever run
        "CeleriacNoWorkerForQueue",
        metric="celeriac_queue_backlog",
        value=1,
    )
    beat = fleet.beat(CELERIAC_KEEPER_RESEND_SECONDS="3600")
    worker = fleet.lasting_worker("w1", slots=1, CELERIAC_WORKER_COROUTINES="0")
    fleet.wait_terminal([first])
    reported(client)
    # the only slot is held, and the queue fills
    held = [fleet.submit(fleet.task("hold"), diary=diary, gate=str(fleet.gate)) for _ in range(3)]
    report = reported(client, "queue_old")
    assert report.level is Level.WARNING
    assert (report.active_tasks, report.pending_tasks) == (1, 2)
    change(fleet, WAITED, rows=2)
    alerts.see("CeleriacQueueOldestAge", metric="celeriac_queue_oldest_age_seconds", value=301)
    fleet.open_gate()
    fleet.wait_terminal(held)
    reported(client)
    fails_in_two_ways(fleet, client, alerts)
    waits_for_people(fleet, client, alerts, beat, note)
    # the worker hangs
    others = (*FAILING, "approval_old", "paused", "budget_spent")
    worker.freeze()
    report = reported(client, *others, "worker_missed_lease")
    assert report.workers.data is not None
    assert [each.status for each in report.workers.data] == ["silent"]
    worker.thaw()
    reported(client, *others)
    alerts.check(fleet.home)


def fails_in_two_ways(fleet: Fleet, client: Client, alerts: Alerts) -> None:
    diary = str(fleet.diary)
    # for good, and after its last retry
    stumbling = fleet.task("stumble", retry={"max_retries": 0})
    failing = [
        fleet.submit(fleet.task("refuse"), diary=diary),
        fleet.submit(stumbling, diary=diary, times=9),
    ]
    failed = fleet.wait_terminal(failing)
    assert {each.status for each in failed} == {Status.FAILED}
    wait_until(lambda: client.sitrep().failed_tasks == len(failing), "both are counted")
    report = reported(client, *FAILING)
    assert (report.completed_tasks, report.failed_tasks) == (4, 2)
    assert report.success_rate == pytest.approx(4 / 6)
    assert report.recent_tasks.data is not None
    assert {each.status for each in report.recent_tasks.data.items[:2]} == {"failed"}
    groups = {each.title: each for each in client.failures.list()}
    assert {each.failures for each in groups.values()} == {1}, "two causes, two groups"
    assert {each.last_execution_id for each in groups.values()} == set(failing)
    alerts.see("CeleriacNewFailureGroup", metric="celeriac_failure_groups", state="new", value=2)
    fleet.wait_terminal(fleet.batch(stumbling, [{"diary": diary, "times": 9}] * 20))
    alerts.see("CeleriacFailureRate", metric="celeriac_executions_total", status="failed", value=21)
    group = next(each for each in groups.values() if each.task_id == stumbling)
    comes_back(fleet, client, alerts, group)


def waits_for_people(
    fleet: Fleet, client: Client, alerts: Alerts, beat: Program, note: UUID
) -> None:
    diary = str(fleet.diary)
    # the keeper is gone, and a schedule is late
    beat.kill()
    client.schedules.create("nightly", task=str(note), input={"diary": diary}, every_seconds=60)
    change(fleet, "UPDATE schedules SET due_at = now() - interval '90 seconds'")
    reported(client, *FAILING, "schedule_late")
    alerts.see("CeleriacScheduleLate", metric="celeriac_schedule_late_seconds", value=61)
    change(fleet, "UPDATE schedules SET due_at = now() + interval '1 hour'")
    # a question waits for a person
    fleet.submit(fleet.task("ask_by"), schema={"type": "object"})
    reported(client, *FAILING, "approval_old")
    change(fleet, "UPDATE approvals SET created_at = now() - interval '25 hours'")
    alerts.see("CeleriacApprovalsOld", metric="celeriac_approval_oldest_age_seconds", value=86_401)
    # somebody pauses a queue, which is no fault
    client.pauses.pause("queue", queue="mail", reason="Supplier away.")
    reported(client, *FAILING, "approval_old", "paused")
    # a budget is nearly spent, then spent
    client.budgets.set("day", task=str(note), max_tokens=100)
    for tokens, code in ((90, "budget_nearly_spent"), (100, "budget_spent")):
        change(fleet, SPEND, tokens=tokens)
        reported(client, *FAILING, "approval_old", "paused", code)
    alerts.see(
        "CeleriacApprovalsOld",
        "CeleriacBudgetNearlySpent",
        metric="celeriac_budget_spent_ratio",
        value=1,
    )


WAITED = "UPDATE executions SET queued_at = now() - interval '310 s' WHERE status = 'queued'"

SPEND = """
INSERT INTO budget_windows (budget_id, window_key, spent_tokens)
SELECT id, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD'), :tokens FROM budgets
ON CONFLICT (budget_id, window_key) DO UPDATE SET spent_tokens = excluded.spent_tokens
"""


def change(fleet: Fleet, statement: str, *, rows: int = 1, **values: object) -> None:
    with fleet.container.database.transaction() as connection:
        assert connection.execute(text(statement), values).rowcount == rows


@contextmanager
def frozen(server: RunningServer) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


@contextmanager
def killed(server: RunningServer) -> Iterator[None]:
    server.kill()
    try:
        yield
    finally:
        server.start()


@pytest.fixture
def endpoints(fleet: Fleet, client: Client) -> Iterator[EveryEndpoint]:
    """All endpoints, which must answer within their bound and what a busy machine adds."""
    task, seconds = fleet.task("note"), ANSWER_SECONDS + BOUND_SECONDS
    with every_endpoint(
        client.base_url, fleet.key(), task, str(fleet.diary), seconds=seconds
    ) as made:
        yield made


def test_a_server_that_is_away_is_named_in_time(
    fleet: Fleet,
    client: Client,
    endpoints: EveryEndpoint,
    own_postgres: PostgresServer,
    own_valkey: ValkeyServer,
) -> None:
    answers, submitted = endpoints.ask()
    assert [each.path for each in answers if each.status != OK] == ["/health/celery"], "no worker"
    assert submitted.status == ACCEPTED
    fleet.beat(**UNHURRIED)
    fleet.lasting_worker("w1")
    reported(client)
    doctor_names_a_frozen_server(fleet, client, own_postgres, own_valkey)
    for without in (frozen, killed):
        a_server_is_away(client, endpoints, own_postgres, own_valkey, without)
    # what was refused is repeated, and nothing is there twice
    repeated = [endpoints.submit(key) for key in endpoints.keys]
    assert {each.status for each in repeated} == {ACCEPTED}
    count = fleet.scalar(text("SELECT count(*) FROM executions"))
    assert count == len(endpoints.keys)
    wait_until(lambda: len(fleet.ids(Status.COMPLETED)) == count, "all have ended")
    assert len(fleet.diary_lines()) == count
    fleet.assert_consistent()


OK, ACCEPTED, UNAVAILABLE = 200, 202, 503

WITHOUT_DATABASE = {
    "/health/live",
    "/metrics",
    "/api/v1/doctor",
    "/api/v1/scheduler/sitrep",
    "/api/v1/webhook-callback-secret",
}
"""Answered without PostgreSQL while the key is known; those that report say what is missing."""


def a_server_is_away(
    client: Client,
    endpoints: EveryEndpoint,
    own_postgres: PostgresServer,
    own_valkey: ValkeyServer,
    without: Callable[[RunningServer], AbstractContextManager[None]],
) -> None:
    with without(own_valkey):
        answers, submitted = endpoints.ask()
        assert submitted.status == ACCEPTED, submitted
        for each in answers:
            # a worker that has noticed says that it takes nothing
            assert each.status == OK or each.path == "/health/celery", each
        reported(client, "redis_unavailable")
        report = bounded(client)
        assert report.workers.ok, "PostgreSQL was not asked"
        wait_until(lambda: not bounded(client).broker.ok, "the broker's last answer is old")
    reported(client)
    with without(own_postgres):
        answers, submitted = endpoints.ask()
        assert submitted.status == UNAVAILABLE, submitted
        for each in answers:
            if each.status != OK or each.path not in WITHOUT_DATABASE:
                assert each.status == UNAVAILABLE, each
                assert "database" in each.text, each
        report = reported(client, "database_unavailable")
        # while the key is known, the last-known data is shown; afterwards nobody is known
        wait_until(lambda: bounded(client).workers.data is None, "the key is forgotten")
        report = bounded(client)
        assert codes(report) == {"database_unavailable"}
        assert report.level is Level.CRITICAL
        assert report.total_tasks is None, "could not ask is not 0"
    reported(client)


def doctor_names_a_frozen_server(
    fleet: Fleet, client: Client, own_postgres: PostgresServer, own_valkey: ValkeyServer
) -> None:
    with Client(client.base_url, api_key=fleet.key(), timeout=2 * BOUND_SECONDS) as fresh:
        whole = fresh.doctor()  # from now on the API knows this key for some seconds
        assert whole.ok, whole
        with frozen(own_postgres):
            found = examined(fresh)
            assert {Code.DATABASE, Code.WORKERS} <= found[Diagnosis.FAILED]
            assert not found[Diagnosis.FAILED] & {Code.REDIS, Code.BROKER}, "they answer"
            wait_until(lambda: is_unknown(fresh), "the key is forgotten")
    with frozen(own_valkey):
        found = examined(client)
        assert found[Diagnosis.FAILED] == {Code.REDIS, Code.BROKER}
        assert {Code.DATABASE, Code.SCHEMA, Code.WORKERS} <= found[Diagnosis.OK]
    reported(client)


def examined(client: Client) -> dict[Diagnosis, set[Code]]:
    """Return the codes by level of an answer that came in time."""
    began = time.monotonic()
    answer = client.doctor()
    assert time.monotonic() - began < CHECK_SECONDS + BOUND_SECONDS
    assert not answer.ok
    levels: dict[Diagnosis, set[Code]] = {level: set() for level in Diagnosis}
    for each in answer.findings:
        levels[each.level].add(each.code)
    return levels


def is_unknown(client: Client) -> bool:
    """Whether the API says at once that it can check no key."""
    try:
        client.doctor()
    except ClientError as error:
        return (error.status, error.code) == (503, "database_unavailable")
    return False


def bounded(client: Client) -> wire.Sitrep:
    """Return a report that came in time."""
    began = time.monotonic()
    report = client.sitrep()
    assert time.monotonic() - began < BOUND_SECONDS
    return report
