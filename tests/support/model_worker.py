"""A worker's runtime in the test's process, whose language model is scripted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol
from uuid import UUID, uuid4

from sqlalchemy import text

from celeriac.db.executions import queries
from celeriac.domain.accounts import Actor
from celeriac.domain.agents import LlmAgent
from celeriac.domain.approvals import Answer, Approval, ApprovalFilter, ApprovalStatus
from celeriac.domain.executions.model import (
    Execution,
    Message,
    SubmitRequest,
    WorkerIdentity,
)
from celeriac.domain.executions.options import NO_OPTIONS, RunOptions
from celeriac.domain.executions.states import Status
from celeriac.domain.tasks import TaskSpec
from celeriac.services.approvals.answer import Approvals
from celeriac.services.budgets.manage import Budgets
from celeriac.services.catalog.agents import Agents
from celeriac.services.catalog.tasks import Tasks
from celeriac.settings import Settings
from celeriac.settings.sections import ProviderSettings
from celeriac.wiring.core import CoreServices, build
from celeriac.wiring.worker import WorkerRuntime
from tests.support.catalog import make_actor
from tests.support.core import describe
from tests.support.model_server import ModelServer, Scene

MODEL = "test/model"
SLOTS = 50


class ModelWorker:
    """Runs executions of `llm` tasks in threads, with the real pipeline and servers."""

    def __init__(
        self, container: CoreServices, runtime: WorkerRuntime, server: ModelServer
    ) -> None:
        self.container = container
        self.runtime = runtime
        self.server = server
        self.actor = make_actor(container.database)
        self.budgets = Budgets(container.database, container.specs, container.live)
        self.approvals = Approvals(container.database, container.live, container.dispatch.send_due)

    def task(self, prompt: str, *, answer_limit: int = 5, **spec: Any) -> UUID:
        """Make a task of an agent that may answer with `answer_limit` tokens."""
        name = f"t-{uuid4()}"
        agent = LlmAgent(model=MODEL, max_output_tokens=answer_limit)
        Agents(self.container.database).create(self.actor, name=name, spec=agent)
        made = Tasks(self.container.database).create(
            self.actor, name=name, agent=name, spec=TaskSpec(prompt=prompt, **spec)
        )
        return made.id

    def submit(self, task: UUID, count: int, options: RunOptions = NO_OPTIONS) -> Sequence[UUID]:
        """Submit executions of a task."""
        request = SubmitRequest(task_id=task, options=options)
        return self.container.submit.batch(self.actor, request, [{}] * count).execution_ids

    def work(self) -> None:
        """Send what is due, and run all that is queued at once."""
        self.runtime.heartbeat.beat()
        while self.container.dispatch.send_due():
            pass
        with self.container.database.autocommit() as connection:
            query = text(
                "SELECT id, attempt, celery_task_id::text FROM executions WHERE status = 'queued'"
            )
            messages = [Message(*row) for row in connection.execute(query)]
        with ThreadPoolExecutor(SLOTS) as slots:
            list(slots.map(self.runtime.execute, messages))

    def pass_waiting(self) -> None:
        """Let the time pass that parked executions wait for."""
        with self.container.database.autocommit() as connection:
            connection.execute(text("UPDATE executions SET waiting_until = now()"
                                    " WHERE waiting_until IS NOT NULL"))  # fmt: skip
        self.container.recover.resume_due(1000)

    def go_on(self) -> None:
        """Work, and let the time pass that others wait for."""
        self.work()
        self.pass_waiting()

    def asking(self, ids: Sequence[UUID]) -> list[Approval]:
        """Return the open questions of executions."""
        wanted = ApprovalFilter(statuses=[ApprovalStatus.OPEN])
        page = self.approvals.find(self.actor, wanted, limit=500)
        return [each for each in page.items if each.execution_id in ids]

    def answer(self, question: Approval, given: Answer, *, actor: Actor | None = None) -> None:
        """Answer a question, as its owner unless told otherwise."""
        self.approvals.answer(actor or self.actor, question.id, given)

    def get(self, execution_id: UUID) -> Execution:
        """Return an execution."""
        with self.container.database.autocommit() as connection:
            found = queries.get(connection, execution_id, workspace=None)
        assert found is not None, f"{execution_id} is lost"
        return found

    def by_status(self, ids: Sequence[UUID]) -> Mapping[Status, list[Execution]]:
        """Return executions by their status."""
        found: dict[Status, list[Execution]] = {status: [] for status in Status}
        for each in map(self.get, ids):
            found[each.status].append(each)
        return found


class Workers(Protocol):
    """Starts another worker on the same servers; its settings changed as told."""

    def __call__(self, **changes: Any) -> ModelWorker: ...


@contextmanager
def model_workers(
    settings: Settings, scenes: Mapping[str, Scene], **changes: Any
) -> Iterator[Workers]:
    """Serve a scripted model, and end all workers at the end."""
    with ModelServer(scenes).running() as server, ExitStack() as stack:
        provider = {"test": ProviderSettings(base_url=server.base_url)}
        common = settings.model_copy(update={"providers": provider, **changes})

        def start(**more: Any) -> ModelWorker:
            changed = common.model_copy(update=more)
            container = build(changed, service="test", connections=12)
            stack.callback(container.close)
            runtime = WorkerRuntime(
                container,
                worker="test@worker",
                describe=lambda worker_id: describe(WorkerIdentity(worker_id, "test@worker")),
                shutting_down=lambda: False,
                call_ended=lambda: None,
            )
            stack.callback(runtime.close)
            return ModelWorker(container, runtime, server)

        yield start


@contextmanager
def model_worker(
    settings: Settings, scenes: Mapping[str, Scene], **changes: Any
) -> Iterator[ModelWorker]:
    """Start one worker's machinery on `settings`, changed by `changes`, and end it at the end."""
    with model_workers(settings, scenes, **changes) as start:
        yield start()


def until(done: Callable[[], bool], work: Callable[[], object], *, rounds: int) -> None:
    """Do `work` until `done`, at most so often."""
    for _ in range(rounds):
        if done():
            return
        work()
    assert done(), f"not done after {rounds} rounds"
