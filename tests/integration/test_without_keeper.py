"""A worker process goes on with what its ends make due; no keeper runs here."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from celeriac.db.executions import calls, queries
from celeriac.domain.accounts import Actor
from celeriac.domain.executions.calls import EXECUTE_WORKFLOW, NewCall
from celeriac.domain.executions.model import Execution, Message, SubmitRequest, WorkerIdentity
from celeriac.domain.executions.states import Status
from celeriac.domain.executions.triggers import TriggerType
from celeriac.domain.workflows.model import WorkflowSpec
from celeriac.domain.workflows.states import RunStatus
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.workflows.catalog import Workflows
from celeriac.services.workflows.runs import Runs, StartRequest
from celeriac.settings import Settings
from celeriac.wiring.core import build
from celeriac.wiring.keeper import build_maintenance
from celeriac.wiring.worker import WorkerRuntime
from tests.support import durable_functions
from tests.support.catalog import make_actor, make_task
from tests.support.core import describe
from tests.support.waiting import wait_until

FUNCTIONS = durable_functions.__name__


class Process:
    """A worker process that gets the messages that a test gives it."""

    def __init__(self, settings: Settings, *, coroutines: int) -> None:
        self.call_due = threading.Event()
        self.container = build(
            settings.model_copy(update={"agent_modules": (FUNCTIONS,)}),
            service="test",
            connections=12,
            call_due=self.call_due.set,
        )
        self.runtime = WorkerRuntime(
            self.container,
            worker="w@here/1",
            describe=lambda worker_id: describe(WorkerIdentity(worker_id, "w@here/1")),
            shutting_down=lambda: False,
            call_ended=self.call_due.set,
            coroutines=coroutines,
        )
        self.runtime.heartbeat.beat()
        self.actor: Actor = make_actor(self.container.database)

    def close(self) -> None:
        self.runtime.close()
        self.container.close()

    def task(self, function: str) -> str:
        """Store a task of a function; return its name."""
        task_id = make_task(self.container.database, self.actor, function)
        return Tasks(self.container.database).get(self.actor, str(task_id)).name

    def submit(self, function: str, **variables: object) -> UUID:
        """Submit an execution of a function."""
        task = Tasks(self.container.database).get(self.actor, self.task(function))
        request = SubmitRequest(task_id=task.id, variables=variables)
        return self.container.submit(self.actor, request).execution_id

    def get(self, execution_id: UUID) -> Execution:
        with self.container.database.autocommit() as connection:
            found = queries.get(connection, execution_id, workspace=None)
        assert found is not None
        return found

    def child_of(self, parent: UUID) -> UUID:
        """Return the only child of an execution."""
        with self.container.database.autocommit() as connection:
            query = "SELECT execution_id FROM children WHERE parent_id = %s"
            return UUID(str(connection.exec_driver_sql(query, (parent,)).scalar_one()))

    def run(self, execution_id: UUID, until: Callable[[Execution], bool]) -> None:
        """Run an execution that was sent; it must be sent soon, though no keeper runs."""
        sent = f"{execution_id} is sent"
        wait_until(lambda: self.get(execution_id).status is Status.QUEUED, sent, within=15)
        found = self.get(execution_id)
        self.runtime.execute(Message(execution_id, found.attempt, str(found.celery_task_id)))
        wait_until(lambda: until(self.get(execution_id)), f"{execution_id} has run", within=15)

    def waits(self, execution_id: UUID) -> None:
        """Run an execution until it waits."""
        self.run(execution_id, lambda found: found.status is Status.WAITING)

    def ends(self, execution_id: UUID) -> None:
        """Run an execution until it has ended."""
        self.run(execution_id, lambda found: found.status.terminal)


@pytest.fixture(params=[0, 10], ids=["slots", "coroutines"])
def process(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Process]:
    made = Process(settings, coroutines=request.param)
    yield made
    made.close()


def test_a_durable_parent_goes_on_when_its_child_has_ended(
    process: Process, tmp_path: Path
) -> None:
    log = str(tmp_path / "log")
    parent = process.submit(f"{FUNCTIONS}:parent", log=log, task=process.task("noop"))

    process.waits(parent)
    process.ends(process.child_of(parent))
    process.ends(parent)

    assert process.get(parent).status is Status.COMPLETED, process.get(parent).error_message
    assert Path(log).read_text() == "before\nafter\n"


def test_a_cancelled_child_lets_its_parent_go_on(process: Process, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    parent = process.submit(f"{FUNCTIONS}:parent", log=log, task=process.task("noop"))
    process.waits(parent)

    process.container.cancel(process.actor, [process.child_of(parent)])

    assert process.get(parent).status is Status.QUEUED


def test_a_sleep_that_is_over_is_sent_in_the_turn_that_ends_it(
    process: Process, tmp_path: Path
) -> None:
    sleeper = process.submit(f"{FUNCTIONS}:sleeper", log=str(tmp_path / "log"))
    process.waits(sleeper)
    with process.container.database.autocommit() as connection:
        connection.exec_driver_sql("UPDATE executions SET waiting_until = now()")
    jobs = {each.name: each for each in build_maintenance(process.container)}

    assert jobs["resume_waiting"].work() == 1

    assert process.get(sleeper).status is Status.QUEUED


@pytest.mark.parametrize("called", [True, False])
def test_the_end_of_a_workflow_run_tells_who_ends_its_celery_task(
    process: Process, called: bool
) -> None:
    spec = WorkflowSpec.model_validate({"steps": {"only": {"task": process.task("noop")}}})
    database = process.container.database
    workflow = Workflows(database).create(process.actor, name="w", spec=spec)
    runs = Runs(database, process.container.plans, process.container.advance)
    kind = TriggerType.CELERY if called else TriggerType.MANUAL
    call = NewCall(str(uuid4()), EXECUTE_WORKFLOW, '{"request": {}}') if called else None
    request = StartRequest(workflow.id, {}, trigger_type=kind, call=call)
    run_id = runs.start(process.actor, request).run_id
    with database.autocommit() as connection:
        query = "SELECT id FROM executions WHERE run_id = %s"
        item = UUID(str(connection.exec_driver_sql(query, (run_id,)).scalar_one()))
    assert not process.call_due.is_set()

    process.ends(item)

    ended = runs.get(process.actor, run_id)
    if not called:
        wait_until(lambda: runs.get(process.actor, run_id).status.terminal, "the run has ended")
        assert not process.call_due.is_set(), "no Celery task waits for this run"
        return
    assert process.call_due.wait(15), ended.status
    assert runs.get(process.actor, run_id).status is RunStatus.COMPLETED
    with database.autocommit() as connection:
        (due,) = calls.take_due(connection, limit=10, seconds=60)
    assert due.subject_id == run_id
