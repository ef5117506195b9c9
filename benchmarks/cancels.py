"""(f) Cancelling: from the request until the row says so and no process is left."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import psutil

from benchmarks.figures import Figure, Target, percentiles
from benchmarks.runners import Kind, Models, kinds, missing, worker_environment
from benchmarks.scale import Scale
from benchmarks.stage import Stage, add_task
from celeriac.client import Client

_GOAL_SECONDS = 3.0
_GOAL_SECONDS_OF_CLAUDE = 8.0
_BEGIN_SECONDS = 60.0
_END_SECONDS = 60.0
_POLL_SECONDS = 0.002
_MARKER = "CELERIAC_CHILD"


def measure(stage: Stage, scale: Scale) -> Figure:
    """Cancel running executions of each kind, one at a time."""
    measured: dict[str, object] = {}
    targets = []
    with Models.running() as models, _at_work(stage, models) as (client, worker):
        for kind in kinds(models):
            count = scale.heavy_cancels if kind.heavy else scale.cancels
            reason = missing(kind) if count else "it takes too long for a quick run"
            if reason is not None:
                measured[kind.name] = {"skipped": reason}
                continue
            name = kind.name.replace(" ", "-")
            task = add_task(stage.container, stage.actor, name, kind.spec, prompt="Work.")
            cancelling = _Cancelling(stage, client, worker, kind, task)
            cancelling.once()  # the first one loads the runner's libraries
            figures = percentiles([cancelling.once() for _ in range(count)])
            measured[kind.name] = figures
            goal = _GOAL_SECONDS_OF_CLAUDE if kind.name == "claude" else _GOAL_SECONDS
            targets.append(Target(f"{kind.name}: p99_ms", figures["p99_ms"], goal * 1000))
    return Figure(
        "How long from the request to cancel a running execution until it is cancelled and no "
        "process of it is left?",
        measured,
        targets,
    )


@contextmanager
def _at_work(stage: Stage, models: Models) -> Iterator[tuple[Client, psutil.Process]]:
    environment = worker_environment(models)
    with (
        stage.programs.beat(),
        stage.programs.worker(pool="threads", concurrency=4, environment=environment) as worker,
        stage.programs.api() as url,
        Client(url, stage.api_key) as client,
    ):
        yield client, worker


class _Cancelling:
    """Cancels executions of one task, one at a time."""

    def __init__(
        self, stage: Stage, client: Client, worker: psutil.Process, kind: Kind, task: UUID
    ) -> None:
        self._stage = stage
        self._client = client
        self._worker = worker
        self._kind = kind
        self._task = task
        self._directory = str(stage.container.settings.home.parent)

    def once(self) -> float:
        """Start one, cancel it while it works; return the seconds until nothing of it is left."""
        before = self._children()
        asked = self._kind.asked()
        execution = self._client.executions.execute(self._task, {}).execution_id
        _wait(lambda: self._is_at_work(execution, asked), _BEGIN_SECONDS, "it is at its work")
        family = self._children() - before
        begin = time.perf_counter()
        self._client.executions.cancel(execution)
        _wait(lambda: self._is_cancelled(execution), _END_SECONDS, "it is cancelled")
        seconds = self._until_gone(family, begin)
        while strays := (self._children() - before) | self._marked():
            seconds = self._until_gone(strays, begin)
        return seconds

    def _until_gone(self, processes: set[psutil.Process], begin: float) -> float:
        _wait(lambda: not _running(processes), _END_SECONDS, f"{processes} have ended")
        return time.perf_counter() - begin

    def _is_at_work(self, execution: UUID, asked: int) -> bool:
        if self._kind.program is not None:
            return any(_name(each) == self._kind.program for each in self._children())
        if self._kind.model:
            return self._kind.asked() > asked
        query = "SELECT progress_done IS NOT NULL FROM executions WHERE id = :id"
        return bool(self._stage.watch.rows(query, id=execution)[0][0])

    def _is_cancelled(self, execution: UUID) -> bool:
        query = "SELECT status FROM executions WHERE id = :id"
        status = self._stage.watch.rows(query, id=execution)[0][0]
        if status in {"completed", "failed"}:
            raise RuntimeError(f"an execution of {self._kind.name} was to be cancelled: {status}")
        return bool(status == "cancelled")

    def _children(self) -> set[psutil.Process]:
        return set(self._worker.children(recursive=True))

    def _marked(self) -> set[psutil.Process]:
        """Return the running processes that have the marker of one of our attempts."""
        found = set()
        for process in psutil.process_iter():
            try:
                environment = process.environ()
            except (psutil.Error, OSError):
                continue
            ours = environment.get("HOME", "").startswith(self._directory)
            if ours and _MARKER in environment and _is_running(process):
                found.add(process)
        return found


def _running(processes: set[psutil.Process]) -> bool:
    return any(_is_running(each) for each in processes)


def _is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def _wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:g} s still not so: {what}")
        time.sleep(_POLL_SECONDS)
