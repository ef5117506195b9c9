"""Whatever fails after a claim, the attempt ends with a stored outcome; only death is a crash."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from celeriac.domain.errors import DatabaseUnavailableError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Parked
from celeriac.domain.executions.states import Status, WaitingFor
from celeriac.domain.tasks import TaskSpec
from celeriac.domain.usage import ModelCall
from celeriac.kit.json_types import JsonValue
from celeriac.kit.loop import LoopThread
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.executions import agent_runs
from celeriac.services.executions.attempt import Attempt, ClaimTokens, StopReason
from celeriac.services.ports import Job, RunContext
from celeriac.services.sessions import SessionStore
from tests.support.core import Core
from tests.support.executing import Work, Worker
from tests.support.forgetful import ForgetfulDatabase

NEWER = "jsonb_set({0}::jsonb, '{{from_next_year}}', 'true')"
"""A field that only a newer release knows."""


async def done(_job: Job, _context: RunContext) -> JsonValue:
    """Return a result."""
    return "done"


@pytest.fixture
def worker_of(core: Core, tmp_path: Path, loop: LoopThread) -> Callable[[Work], Worker]:
    return lambda work: Worker(core, tmp_path, loop, work)


@pytest.fixture
def worker(worker_of: Callable[[Work], Worker]) -> Worker:
    return worker_of(done)


def assert_no_zombie(core: Core, execution_id: Any) -> None:
    row = core.get(execution_id)
    assert row.status is not Status.RUNNING, "nobody runs it, and nothing says so"
    assert row.crash_count == 0, "no process has died"
    core.assert_consistent()


@pytest.mark.parametrize("table", ["task_versions", "agent_versions"])
def test_a_spec_of_a_newer_release_is_handed_back(core: Core, worker: Worker, table: str) -> None:
    """A rolling upgrade: the API is new, this worker is old."""
    execution_id = core.queued()
    of_table = f"WHERE hash IN (SELECT spec_hash FROM {table})"
    core.execute(f"UPDATE specs SET body = {NEWER.format('body')} {of_table}")
    worker.run(execution_id)
    row = core.get(execution_id)
    assert (row.status, row.retry_count, row.crash_count) == (Status.PENDING, 0, 0)
    assert row.error_code == "specification_unreadable"
    assert row.available_at > row.created_at, "the same worker would take it again at once"
    event = core.events(execution_id)[-1]
    assert (event.type, event.data["code"]) == (EventType.HANDED_BACK, "specification_unreadable")
    core.assert_consistent()

    core.execute(
        f"UPDATE specs SET body = body::jsonb - 'from_next_year' {of_table}"
    )  # an upgraded worker
    core.pass_time(600)
    assert worker.drain() == 1
    assert core.get(execution_id).result == "done"


@pytest.mark.parametrize("by_turn", [False, True])
def test_options_of_a_newer_release_are_handed_back(
    core: Core, worker: Worker, by_turn: bool
) -> None:
    first, *others = [core.queued(), *core.pending_many([{}])] if by_turn else [core.queued()]
    newer, message = others[0] if by_turn else first, core.message(first)
    core.execute(
        "UPDATE executions SET options = '{\"from_next_year\": true}' WHERE id = :id", id=newer
    )
    assert worker.execute(message) == 1 + len(others)
    with core.database.autocommit() as connection:
        row = connection.exec_driver_sql(
            "SELECT status, error_code, crash_count FROM executions WHERE options IS NOT NULL"
        ).one()
    assert tuple(row) == ("pending", "specification_unreadable", 0)
    core.assert_consistent()


def test_a_database_that_is_away_for_a_moment_costs_nothing(
    core: Core, tmp_path: Path, loop: LoopThread
) -> None:
    forgetful = ForgetfulDatabase(core.database)
    worker = Worker(core, tmp_path, loop, done, forgetful)
    execution_id = core.queued()
    claim = core.claim(core.message(execution_id))
    assert claim is not None
    forgetful.losses = 2  # of the reading of the specification
    assert worker.execute.run_claim(claim, ClaimTokens(), 0.0) is None
    forgetful.close()
    row = core.get(execution_id)
    assert (row.status, row.attempt) == (Status.COMPLETED, 1)


AWAY: dict[str, Callable[[Worker], tuple[Any, str]]] = {
    "reading the specification": lambda worker: (worker.execute.runs.specs, "of_versions"),
    "reading the session": lambda _: (SessionStore, "load"),
}


def _queued(core: Core, stage: str) -> UUID:
    execution_id = core.queued()
    if stage == "reading the session":  # which only an execution that continues one does
        core.execute(f"UPDATE executions SET session_id = id WHERE id = '{execution_id}'")
    return execution_id


@pytest.mark.parametrize("stage", AWAY)
def test_a_database_that_stays_away_before_the_start_hands_the_attempt_back(
    core: Core, worker: Worker, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution_id = _queued(core, stage)
    monkeypatch.setattr(agent_runs, "DATABASE_SECONDS", 0.0)
    with monkeypatch.context() as patching:
        patching.setattr(*AWAY[stage](worker), raising(DatabaseUnavailableError("away")))
        worker.run(execution_id)
    row = core.get(execution_id)
    assert (row.status, row.error_code) == (Status.PENDING, "database_unavailable")
    assert (row.retry_count, row.crash_count) == (0, 0)
    core.execute("UPDATE executions SET session_id = NULL")
    core.pass_time(600)
    worker.drain()
    assert core.get(execution_id).result == "done"


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


STAGES: dict[str, Callable[[Worker], tuple[Any, str]]] = {
    "reading the specification": lambda worker: (worker.execute.runs.specs, "of_versions"),
    "rendering the prompt": lambda _: (agent_runs, "compiled"),
    "reading the session": lambda _: (SessionStore, "load"),
    "finding the runner": lambda worker: (worker.execute.runs.runners, "get"),
    "making its context": lambda _: (agent_runs, "AttemptContext"),
    "starting the agent": lambda worker: (worker.execute.runs.own_loops, "start"),
    "waiting for the agent": lambda _: (Attempt, "on_stop"),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "error",
    [RuntimeError("a bug"), KeyError("x"), MemoryError(), RecursionError(), SystemExit(3)],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_whatever_fails_before_the_agent_runs_is_stored(
    core: Core,
    worker: Worker,
    stage: str,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    execution_id = _queued(core, stage)
    with monkeypatch.context() as patching:
        patching.setattr(*STAGES[stage](worker), raising(error))
        worker.run(execution_id)
    assert_no_zombie(core, execution_id)
    row = core.get(execution_id)
    assert (row.status, row.retry_count) == (Status.PENDING, 1)
    assert row.error_details is not None
    assert row.error_details["type"] == type(error).__name__
    core.execute("UPDATE executions SET session_id = NULL")
    core.pass_time(3600)
    worker.drain()
    assert core.get(execution_id).result == "done"


class UnspeakableError(Exception):
    """An error whose text can't be made."""

    def __str__(self) -> str:
        raise ValueError("no text")


def test_an_error_that_can_t_be_described_is_stored(
    core: Core, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution_id = core.queued()
    monkeypatch.setattr(worker.execute.runs.specs, "of_versions", raising(UnspeakableError()))
    worker.run(execution_id)
    assert_no_zombie(core, execution_id)
    details = core.get(execution_id).error_details
    assert details is not None
    assert details["type"] == "UnspeakableError"


AFTERWARDS: dict[str, Callable[[Worker], tuple[Any, str]]] = {
    "reporting": lambda worker: (worker.execute.runs.reports, "enqueue"),
    "tidying": lambda _: (agent_runs, "remove_if_empty"),
    "logging": lambda _: (agent_runs, "report"),
    "publishing to watchers": lambda worker: (worker.core.live, "changed"),
}


@pytest.mark.parametrize("stage", AFTERWARDS)
def test_what_fails_after_the_end_loses_no_claim(
    core: Core,
    worker_of: Callable[[Work], Worker],
    stage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def speak(_job: Job, context: RunContext) -> JsonValue:
        assert context.workdir.is_dir()
        await context.emit(EventType.MESSAGE, {"role": "user", "content": "hello"})
        return "done"

    worker = worker_of(speak)
    first, second = core.queued(), core.pending()
    monkeypatch.setattr(*AFTERWARDS[stage](worker), raising(RuntimeError("a bug")))
    assert worker.run(first) == 2
    assert [core.status(each) for each in (first, second)] == [Status.COMPLETED] * 2


@pytest.mark.parametrize("reason", [StopReason.CANCELLED, StopReason.SHUTDOWN])
def test_a_stop_while_the_plan_is_read_is_heeded(
    core: Core, worker: Worker, reason: StopReason, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution_id = core.queued()

    def stopped(*_: object) -> None:
        assert worker.attempts.stop_all(reason) == 1, "the attempt was not registered"
        raise DatabaseUnavailableError("away")

    monkeypatch.setattr(agent_runs, "DATABASE_SECONDS", 0.0)
    monkeypatch.setattr(worker.execute.runs.specs, "of_versions", stopped)
    worker.run(execution_id)
    wanted = Status.CANCELLED if reason is StopReason.CANCELLED else Status.PENDING
    assert core.status(execution_id) is wanted
    assert core.get(execution_id).error_code is None
    core.assert_consistent()


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def circle() -> object:
    value: list[object] = []
    value.append(value)
    return value


UNSTORABLE: dict[str, Callable[[], object]] = {
    "an integer beyond 64 bits": lambda: 2**64,
    "a very long integer": lambda: {"a": [10**400]},
    "an object": object,
    "a lone surrogate": lambda: "\udce9",
    "nested very deep": lambda: nested(5_000),
    "nested too deep": lambda: nested(300),
    "a circle": circle,
}


@pytest.mark.parametrize("what", UNSTORABLE)
def test_a_result_that_can_t_be_stored_is_a_stored_failure_at_once(
    core: Core, worker_of: Callable[[Work], Worker], what: str
) -> None:
    async def work(_job: Job, _context: RunContext) -> JsonValue:
        return UNSTORABLE[what]()

    execution_id = core.queued()
    worker_of(work).run(execution_id)
    row = core.get(execution_id)
    assert (row.status, row.error_code, row.attempt) == (Status.FAILED, "result_not_storable", 1)
    assert_no_zombie(core, execution_id)


def test_a_result_that_the_database_refuses_is_a_stored_failure_that_holds_no_value(
    core: Core, worker_of: Callable[[Work], Worker]
) -> None:
    """A fault of the database's, of a kind that nobody has thought of."""

    async def work(_job: Job, context: RunContext) -> JsonValue:
        await context.emit(EventType.MESSAGE, {"role": "user", "content": "kept"})
        return "a secret"

    core.execute(
        "ALTER TABLE execution_results ADD CONSTRAINT odd CHECK (result::text <> '\"a secret\"')"
    )
    try:
        execution_id = core.queued()
        worker_of(work).run(execution_id)
    finally:
        core.execute("ALTER TABLE execution_results DROP CONSTRAINT odd")
    row = core.get(execution_id)
    assert (row.status, row.error_code) == (Status.FAILED, "result_not_storable")
    assert "odd" in (row.error_message or "")
    assert "a secret" not in f"{row.error_message}{row.error_details}"
    assert row.message_count == 1, "what the agent wrote is kept"
    assert_no_zombie(core, execution_id)


@pytest.mark.parametrize("also_calls", [False, True])
def test_notes_that_the_database_refuses_cost_no_result_and_no_bill(
    core: Core, worker_of: Callable[[Work], Worker], also_calls: bool
) -> None:
    async def work(_job: Job, context: RunContext) -> JsonValue:
        if also_calls:
            await context.charge(ModelCall("p", "m", 10, 5))
        await context.emit(EventType.CUSTOM, {"name": "odd"})
        return "done"

    core.execute(
        "ALTER TABLE events ADD CONSTRAINT odd CHECK (data->>'name' IS DISTINCT FROM 'odd')"
    )
    try:
        execution_id = core.queued()
        worker_of(work).run(execution_id)
    finally:
        core.execute("ALTER TABLE events DROP CONSTRAINT odd")
    row = core.get(execution_id)
    assert (row.status, row.result) == (Status.COMPLETED, "done")
    assert row.model_call_count == int(also_calls)
    assert_no_zombie(core, execution_id)


def test_an_error_whose_details_can_t_be_stored_is_still_a_retry(
    core: Core, worker_of: Callable[[Work], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(_job: Job, _context: RunContext) -> JsonValue:
        raise RuntimeError("it failed")

    core.execute(
        "ALTER TABLE execution_results"
        " ADD CONSTRAINT odd CHECK (error_details->>'traceback' IS NULL)"
    )
    try:
        execution_id = core.queued()
        worker_of(work).run(execution_id)
    finally:
        core.execute("ALTER TABLE execution_results DROP CONSTRAINT odd")
    row = core.get(execution_id)
    assert (row.status, row.error_message) == (Status.PENDING, "it failed")
    assert row.retry_count == 1


def test_a_question_that_can_t_be_stored_is_a_stored_failure(
    core: Core, worker_of: Callable[[Work], Worker]
) -> None:
    async def work(_job: Job, _context: RunContext) -> Parked:
        return Parked(WaitingFor.PROVIDER_LIMIT, "429", seconds=float("inf"))

    execution_id = core.queued()
    worker_of(work).run(execution_id)
    row = core.get(execution_id)
    assert (row.status, row.error_code) == (Status.FAILED, "result_not_storable")
    assert_no_zombie(core, execution_id)


def test_the_task_decides_about_retries_of_faults_of_ours(
    core: Core, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = TaskSpec.model_validate({"retry": {"max_retries": 0}})
    Tasks(core.database).change(core.actor, str(core.task), spec=spec)
    core.start_afresh()
    execution_id = core.queued()
    monkeypatch.setattr(worker.execute.runs.runners, "get", raising(RuntimeError("a bug")))
    worker.run(execution_id)
    assert core.status(execution_id) is Status.FAILED
