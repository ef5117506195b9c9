"""Celery's own chains, groups and chords of executions, on a real worker (REQUIREMENTS E2)."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, Signature, chain, chord, group
from celery.exceptions import ChordError, TaskRevokedError
from celery.result import AsyncResult
from sqlalchemy import text

from celeriac.domain.errors import CeleryCallError
from celeriac.domain.executions.model import Execution
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import TaskSpec
from celeriac.domain.workflows.model import WorkflowSpec
from celeriac.kit.json_types import JsonObject, dumps
from celeriac.services.catalog.tasks import Tasks
from celeriac.services.workflows.catalog import Workflows
from tests.support.docs import Block, blocks
from tests.support.fleet import Fleet, running_fleet
from tests.support.places import temporary_directory
from tests.support.programs import scrubbed_environment
from tests.support.servers import PostgresServer, running_valkey
from tests.support.waiting import wait_until

pytestmark = pytest.mark.requirement("E2")

AGENT = "celeriac.tasks.execution.execute_agent"
WORKFLOW = "celeriac.tasks.execution.execute_workflow"
BATCH = "celeriac.tasks.execution.batch_process"
SECONDS = 60.0


def agent_of(fleet: Fleet, task: str) -> str:
    return str(Tasks(fleet.container.database).get(fleet.actor, task).agent_id)


class Canvas:
    """A client's Celery app, which knows Celeriac's tasks by name only."""

    def __init__(self, fleet: Fleet, app: Celery) -> None:
        self.fleet = fleet
        self.app = app
        self._tasks = {name: str(fleet.task(name)) for name in ("noop", "refuse", "hold")}
        for name in ("summarise", "grade", "report"):  # those of the documentation
            Tasks(fleet.container.database).create(
                fleet.actor, name=name, agent=agent_of(fleet, self._tasks["noop"]), spec=TaskSpec()
            )
        refuse = Tasks(fleet.container.database).get(fleet.actor, self._tasks["refuse"]).name
        self._workflow("relay", {"task": "summarise", "with": {"text": "${{ input.input }}"}},
                       input="object")  # fmt: skip
        self._workflow("refusal", {"task": refuse, "with": {"diary": "${{ input.diary }}"}},
                       diary="string")  # fmt: skip
        fields = {"diary": "${{ input.diary }}", "gate": "${{ input.gate }}"}
        hold = Tasks(fleet.container.database).get(fleet.actor, self._tasks["hold"]).name
        self._workflow("doubt", {"task": hold, "with": fields}, diary="string", gate="string")
        self._workflow("review", {"task": "grade", "with": {"text": "${{ input.text }}"}},
                       text="string")  # fmt: skip

    def _workflow(self, name: str, step: JsonObject, **fields: str) -> None:
        """Make a workflow of one step, whose result is that of its runs."""
        spec = {"input": fields, "steps": {"only": step}, "returns": "${{ steps.only.result }}"}
        Workflows(self.fleet.container.database).create(
            self.fleet.actor, name=name, spec=WorkflowSpec.model_validate(spec)
        )

    def agent(self, function: str, *args: Any, **kwargs: Any) -> Signature:
        """Return a signature of `execute_agent` for the task of a function."""
        return self._signature(AGENT, function, args, kwargs)

    def batch(self, function: str, *args: Any, **kwargs: Any) -> Signature:
        """Return a signature of `batch_process` in the same way."""
        return self._signature(BATCH, function, args, kwargs)

    def flow(self, name: str, *args: Any, **kwargs: Any) -> Signature:
        """Return a signature of `execute_workflow`."""
        return self.app.signature(
            WORKFLOW, args=(name, *args), kwargs=kwargs, queue="task_execution"
        )

    def _signature(self, name: str, function: str, args: Any, kwargs: Any) -> Signature:
        return self.app.signature(
            name, args=(self._tasks[function], *args), kwargs=kwargs, queue="task_execution"
        )

    def execution(self, result: AsyncResult) -> Execution:
        """Return the execution of a Celery task, once it has one."""
        query = text("SELECT max(subject_id::text) FROM celery_calls WHERE id = :id")
        find = partial(self.fleet.scalar, query, id=result.id)
        wait_until(find, "it is started")
        return self.fleet.get(UUID(find()))

    def wait_for_result(self, signature: Signature, result: Any) -> None:
        """Wait until an execution that a callback has started has a result."""
        query = text(
            "SELECT count(*) FROM execution_results WHERE result::jsonb = CAST(:result AS jsonb)"
        )
        wait_until(lambda: self.fleet.scalar(query, result=dumps(result)), f"{signature} is called")


@pytest.fixture(scope="module")
def fleet(postgres_server: PostgresServer, migrated: str) -> Iterator[Fleet]:
    """A fleet of our own: a worker with two slots, whose tasks may start executions, and beat."""
    database = postgres_server.fresh_database(migrated)
    with running_valkey() as valkey, temporary_directory() as home:
        url = postgres_server.url(database)
        with running_fleet(home, database_url=url, redis_url=valkey.url()) as made:
            made.beat()
            made.worker("w1", pool="prefork", slots=2, CELERIAC_CALLS_USER=made.actor.name)
            yield made
    postgres_server.drop_database(database)


@pytest.fixture(scope="module")
def canvas(fleet: Fleet) -> Iterator[Canvas]:
    settings = fleet.settings
    with Celery("client", broker=settings.broker_url(), backend=settings.result_backend()) as app:
        yield Canvas(fleet, app)
        gc.collect()  # results unsubscribe when they are collected


def test_a_task_has_the_result_of_its_execution(canvas: Canvas) -> None:
    result = canvas.agent("noop", {"text": "hello"}).delay()
    assert result.get(timeout=SECONDS) == {"text": "hello"}
    assert canvas.execution(result).trigger_type == "celery"


def test_a_chain_passes_results_on(canvas: Canvas) -> None:
    result = chain(
        canvas.agent("noop", {"text": "hello"}),
        canvas.agent("noop", {"number": 1}),
        canvas.agent("noop", previous="before"),
        canvas.agent("noop", {"last": True}, previous=None),
    ).delay()
    assert result.get(timeout=SECONDS) == {"last": True}
    before = result.parent.get(timeout=SECONDS)
    assert before == {"before": {"input": {"text": "hello"}, "number": 1}}


def test_a_group_has_the_results_of_all(canvas: Canvas) -> None:
    result = group(canvas.agent("noop", {"number": each}) for each in range(5)).delay()
    assert result.get(timeout=SECONDS) == [{"number": each} for each in range(5)]


def test_a_chord_gives_its_body_all_results(canvas: Canvas) -> None:
    """More tasks than slots: none of them holds a slot while it waits."""
    header = [canvas.agent("noop", {"number": each}) for each in range(20)]
    result = chord(header)(canvas.batch("noop"))

    got = result.get(timeout=SECONDS)

    assert got["results"] == [{"input": {"number": each}} for each in range(20)]
    assert got["errors"] == []


def test_a_batch_has_its_errors_aside(canvas: Canvas) -> None:
    items = [{"diary": str(canvas.fleet.diary)}, {"diary": str(canvas.fleet.diary)}]
    result = chain(canvas.batch("refuse", items), canvas.agent("noop")).delay()

    got = result.get(timeout=SECONDS)["input"]

    assert got["results"] == [None, None]
    assert [each["index"] for each in got["errors"]] == [0, 1]
    assert {each["code"] for each in got["errors"]} == {"agent_failed_permanently"}


def test_a_batch_without_items_ends_at_once(canvas: Canvas) -> None:
    got = canvas.batch("noop", []).delay().get(timeout=SECONDS)
    assert got == {"batch_id": None, "results": [], "errors": []}


def test_the_error_of_an_execution_is_that_of_its_task(canvas: Canvas) -> None:
    result = canvas.agent("refuse", {"diary": str(canvas.fleet.diary)}).delay()
    with pytest.raises(CeleryCallError, match="agent_failed_permanently") as caught:
        result.get(timeout=SECONDS)
    execution = canvas.execution(result)
    assert f"(execution {execution.id})" in str(caught.value)
    assert (result.state, execution.status) == ("FAILURE", Status.FAILED)


def test_what_can_not_start_fails_at_once(canvas: Canvas) -> None:
    for kwargs in ({"variables": 1}, {"other": 1}, {"queue": "Bad Queue"}):
        with pytest.raises(CeleryCallError, match="invalid_input"):
            canvas.agent("noop", **kwargs).delay().get(timeout=SECONDS)
    with pytest.raises(CeleryCallError, match="not_found: There is no task nothing"):
        canvas.app.send_task(AGENT, ("nothing",), queue="task_execution").get(timeout=SECONDS)


def test_a_failure_in_the_header_of_a_chord_fails_it(canvas: Canvas) -> None:
    header = [canvas.agent("noop", {"number": each}) for each in range(3)]
    header.append(canvas.agent("refuse", {"diary": str(canvas.fleet.diary)}))
    failed = canvas.agent("noop", {"seen": "the error"})
    result = chord(header)(canvas.batch("noop").on_error(failed.set(immutable=True)))
    with pytest.raises(CeleryCallError, match="agent_failed_permanently"):
        result.get(timeout=SECONDS)
    wait_until(result.ready, "the body has failed")
    assert isinstance(result.result, ChordError)
    canvas.wait_for_result(failed, {"seen": "the error"})


def test_a_failure_ends_a_chain(canvas: Canvas) -> None:
    result = chain(
        canvas.agent("refuse", {"diary": str(canvas.fleet.diary)}),
        canvas.agent("noop"),
        canvas.agent("noop"),
    ).delay()
    with pytest.raises(CeleryCallError, match="agent_failed_permanently"):
        result.get(timeout=SECONDS)


def test_workflows_are_part_of_a_chain(canvas: Canvas) -> None:
    result = chain(
        canvas.agent("noop", {"text": "hello"}),
        canvas.flow("relay"),
        canvas.agent("noop", previous="last"),
    ).delay()
    assert result.get(timeout=SECONDS) == {"last": {"text": {"text": "hello"}}}


def test_the_error_of_a_run_is_that_of_its_task(canvas: Canvas) -> None:
    result = canvas.flow("refusal", {"diary": str(canvas.fleet.diary)}).delay()
    with pytest.raises(CeleryCallError, match=r"\(workflow run "):
        result.get(timeout=SECONDS)
    with pytest.raises(CeleryCallError, match="not_found: There is no workflow nothing"):
        canvas.flow("nothing").delay().get(timeout=SECONDS)


def test_revoking_cancels_the_run(canvas: Canvas) -> None:
    given = {"diary": str(canvas.fleet.diary), "gate": str(canvas.fleet.home / "never")}
    result = canvas.flow("doubt", given).delay()
    query = text("SELECT count(*) FROM celery_calls WHERE id = :id")
    wait_until(lambda: canvas.fleet.scalar(query, id=result.id), "it is started")
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=SECONDS)
    status = text("SELECT r.status FROM celery_calls c JOIN workflow_runs r ON r.id = c.subject_id"
                  " WHERE c.id = :id")  # fmt: skip
    assert canvas.fleet.scalar(status, id=result.id) == "cancelled"


def test_revoking_cancels_the_execution(canvas: Canvas) -> None:
    gate = canvas.fleet.home / "never"
    variables = {"diary": str(canvas.fleet.diary), "gate": str(gate)}
    # both slots are taken by what is to be revoked
    results = [canvas.agent("hold", variables).delay() for _ in range(2)]
    executions = [canvas.execution(each).id for each in results]
    for each in executions:
        canvas.fleet.wait_status(each, Status.RUNNING)
    assert {each.state for each in results} == {"STARTED"}

    for each in results:
        each.revoke()

    for done in canvas.fleet.wait_terminal(executions):
        assert (done.status, done.cancel_requested_by) == (Status.CANCELLED, "celery revoke")
    for each in results:
        with pytest.raises(TaskRevokedError):
            each.get(timeout=SECONDS)
        assert each.state == "REVOKED"


def test_a_message_delivered_twice_starts_and_ends_once(canvas: Canvas) -> None:
    first = canvas.agent("noop", {"number": 1}).set(task_id="twice", link=canvas.agent("noop"))
    result = first.delay()
    assert result.get(timeout=SECONDS) == {"number": 1}
    (following,) = result.children

    canvas.agent("noop", {"number": 2}).apply_async(task_id="twice", link=canvas.agent("noop"))
    canvas.agent("noop", {"number": 3}).delay().get(timeout=SECONDS)  # behind it in the queue

    assert following.get(timeout=SECONDS) == {"input": {"number": 1}}
    assert result.get(timeout=SECONDS) == {"number": 1}
    executions = text("SELECT count(*) FROM executions WHERE request_id = 'twice'")
    assert canvas.fleet.scalar(executions) == 1
    assert len(AsyncResult("twice", app=canvas.app).children) == 1


def test_nothing_is_lost_with_a_worker(canvas: Canvas) -> None:
    """One worker is killed while it runs the header of a chord, the other one goes on."""
    fleet = canvas.fleet
    gate = fleet.home / "kill-gate"
    variables = {"diary": str(fleet.diary), "gate": str(gate)}
    other = fleet.worker("w2", slots=4, CELERIAC_CALLS_USER=fleet.actor.name)
    result = chord([canvas.agent("hold", variables) for _ in range(4)])(canvas.batch("noop"))
    running = [canvas.execution(each).id for each in result.parent]
    for each in running:
        fleet.wait_status(each, Status.RUNNING)

    other.kill()
    gate.touch()

    got = result.get(timeout=SECONDS)
    assert len(got["results"]) == 4
    assert got["errors"] == []
    fleet.wait_terminal(running)
    fleet.assert_consistent()


def test_the_keeper_ends_what_no_worker_has_ended(canvas: Canvas) -> None:
    """The execution is cancelled while no worker has it."""
    call = canvas.agent("noop", {}, queue="nobody").delay()
    execution = canvas.execution(call)
    canvas.fleet.container.cancel(canvas.fleet.actor, [execution.id])
    with pytest.raises(TaskRevokedError):
        call.get(timeout=SECONDS)


@pytest.mark.parametrize("block", [each for each in blocks("docs/celery.md")
                                   if each.language == "python"], ids=str)  # fmt: skip
def test_the_examples_of_the_documentation_work(canvas: Canvas, block: Block) -> None:
    settings = canvas.fleet.settings
    urls = {
        "CELERY_BROKER_URL": settings.broker_url(),
        "CELERY_RESULT_BACKEND": settings.result_backend(),
    }
    done = subprocess.run(
        [sys.executable, "-c", block.text],
        env=scrubbed_environment(canvas.fleet.home, **urls),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "{'text': 'A long letter.'}"
