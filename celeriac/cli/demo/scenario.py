"""What the demo does to a running system, through the public client."""

import os
import signal
import threading
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.console import Console

import celeriac
from celeriac.cli.core.output import CommandError, ExitCode, short
from celeriac.cli.demo.proof import DemoFailedError, Result, results_of
from celeriac.cli.demo.showing import Progress
from celeriac.cli.demo.workflow import WorkflowResult, WorkflowScenario
from celeriac.cli.system import System
from celeriac.client import Client, ClientError, Delta
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.states import LIVE, Status
from celeriac.domain.workflows.states import RunStatus
from celeriac.embedded.output import read_last_lines
from celeriac.kit.words import counted
from celeriac.wire import ExecutionSummary

_POLL_SECONDS = 0.2
_AT_KILL = 2
"""The worker is killed when so many executions are completed, and so many run."""
_LAST_LINES = 8
_LOG_CHARACTERS = 200


def read_files(directory: Path | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the document that `Client.apply` takes, and the texts by name.

    They are read from `directory`, or come with Celeriac: a wheel has them in `demo_files`, a
    checkout in `examples/demo`. Raises CommandError where a file is missing or malformed.
    """
    package = Path(celeriac.__file__).parent
    packaged, checkout = package / "demo_files", package.parent / "examples" / "demo"
    directory = directory or (packaged if packaged.is_dir() else checkout)
    try:
        document = tomllib.loads((directory / "demo.toml").read_text(encoding="utf-8"))
        texts = {
            path.stem: path.read_text(encoding="utf-8").strip()
            for path in sorted((directory / "inputs").glob("*.txt"))
        }
    except (OSError, ValueError) as error:
        raise CommandError(f"The demo's files in {directory} can't be read: {error}") from error
    sections = ("agents", "tasks", "workflows")
    if not (all(document.get(each) for each in sections) and texts):
        raise CommandError(
            f"The demo's files in {directory} name no agent, no task, no workflow or no text."
        )
    return document, texts


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo has shown."""

    executions: Sequence[Result]
    workflow: WorkflowResult


@dataclass(frozen=True, slots=True)
class Scenario:
    """The steps of the demo. `deadline` is a `time.monotonic()` time.

    `document` is what `Client.apply` takes. Each of its tasks with a variable `text` runs once on
    each of `texts`; then its workflow runs once on all of them.
    """

    system: System
    document: Mapping[str, Any]
    texts: Mapping[str, str]
    console: Console
    deadline: float

    def run(self) -> Outcome:
        """Run all and return the results. Raises DemoFailedError, ClientError."""
        with self._connect() as client:
            # the demo's home is its own: what runs there is left by a demo that was cut short
            for run in client.workflow_runs.list(status=RunStatus.RUNNING.value):
                client.workflow_runs.cancel(run.id)
            earlier = client.executions.cancel_many(status=sorted(LIVE)).affected
            if earlier:
                self._say(f"Cancelled {counted(earlier, 'execution')} of an earlier demo.")
            progress = Progress(self.console, self._submit(client))
            stream = threading.Thread(target=self._stream, args=(progress,), daemon=True)
            stream.start()
            self._watch(client, progress, _ready_for_kill)
            self._kill_worker()
            self._watch(client, progress, lambda found: all(map(_ended, found)))
            stream.join(max(0.0, self.deadline - time.monotonic()))
            progress.end_stream()
            if not progress.heard:
                raise DemoFailedError(f"The live stream of {progress.streamed} brought no text.")
            executions = results_of(client, progress.labels)
            workflow = WorkflowScenario(
                client=client,
                document=self.document["workflows"][0],
                texts=self.texts,
                kill_worker=self._kill_worker,
                say=self._say,
                deadline=self.deadline,
            )
            return Outcome(executions, workflow.run())

    def _connect(self) -> Client:
        return Client(self.system.api_url, api_key=self.system.api_key)

    def _submit(self, client: Client) -> dict[UUID, tuple[str, str]]:
        """Make agents and tasks, start the executions, and return their tasks and texts."""
        agents, tasks = self.document["agents"], self.document["tasks"]
        client.apply(self.document)
        self._say(
            f"Made {counted(len(agents), 'agent')}, {counted(len(tasks), 'task')} and a workflow "
            "over HTTP."
        )
        execute = client.executions.execute
        labels = {
            execute(task["name"], {"text": text}).execution_id: (task["name"], name)
            for name, text in self.texts.items()
            for task in tasks
            if _reads_text(task)
        }
        self._say(f"Submitted {counted(len(labels), 'execution')} to run in the background.")
        return labels

    def _watch(
        self,
        client: Client,
        progress: "Progress",
        enough: Callable[[Sequence[ExecutionSummary]], bool],
    ) -> None:
        """Show the executions until `enough` of them."""
        wanted = progress.labels
        while True:
            # one request: they are the newest executions
            newest = zip(wanted, client.executions.list(), strict=False)
            states = [state for _, state in newest if state.id in wanted]
            progress.update(states)
            for state in states:
                if state.status in {Status.FAILED, Status.CANCELLED}:
                    raise DemoFailedError(
                        f"{state.task_name} ended {state.status.value}: {state.error_code}: "
                        f"{state.error_message}"
                    )
            if len(states) == len(wanted) and enough(states):
                return
            if time.monotonic() > self.deadline:
                unfinished = len(wanted) - sum(map(_ended, states))
                raise DemoFailedError(
                    f"The time is up: {unfinished} of {len(wanted)} have not ended."
                )
            time.sleep(_POLL_SECONDS)

    def _kill_worker(self) -> None:
        pid = self.system.supervisor.process("worker").pid
        if pid is None:
            raise DemoFailedError("There is no worker process to kill.")
        os.kill(pid, signal.SIGKILL)
        self._say(
            f"Killed the worker (process {pid}) with SIGKILL. The supervisor starts another; its "
            "executions are taken back when its lease of 5 seconds is over."
        )

    def _stream(self, progress: "Progress") -> None:
        """Show the live output of the first execution until its end."""
        try:
            with self._connect() as client:
                for heard in client.executions.stream(next(iter(progress.labels))):
                    if isinstance(heard, Delta):
                        progress.stream(str(heard.data.get("text") or ""))
                    elif heard.type is EventType.RETRY_SCHEDULED:
                        progress.end_stream()
        except ClientError:
            return  # `_watch` meets the same error and raises it

    def _say(self, line: str) -> None:
        self.console.print(f"• {line}", markup=False, highlight=False, soft_wrap=True)


def _reads_text(task: Mapping[str, Any]) -> bool:
    return "text" in task["spec"]["variables_schema"]["properties"]


def _ready_for_kill(states: Sequence[ExecutionSummary]) -> bool:
    statuses = [each.status for each in states]
    return min(statuses.count(Status.COMPLETED), statuses.count(Status.RUNNING)) >= _AT_KILL


def _ended(state: ExecutionSummary) -> bool:
    return state.status.terminal


def run_supervised(scenario: Scenario) -> Outcome:
    """Run the scenario in a thread, while this one supervises the processes.

    Raises CommandError, with the last lines of all logs if the demo failed.
    """
    future: Future[Outcome] = Future()

    def run() -> None:
        try:
            future.set_result(scenario.run())
        except Exception as error:  # noqa: BLE001 - raised by `future.result`
            future.set_exception(error)

    threading.Thread(target=run, name="demo", daemon=True).start()
    supervisor = scenario.system.supervisor
    supervisor.run(until=lambda: future.done() or time.monotonic() > scenario.deadline)
    if supervisor.stop_requested:
        raise CommandError("Stopped before it was done.", exit_code=ExitCode.INTERRUPTED)
    try:
        return future.result(timeout=1.0)
    except Exception as error:
        lines = [str(error) if future.done() else "The time is up and the demo is not done."]
        for process in supervisor.processes:
            lines.append(f"--- {process.spec.name}: {process.log}")
            last = read_last_lines(process.log, _LAST_LINES)
            lines += [short(line, _LOG_CHARACTERS) for line in last]
        cure = f"All logs are in {scenario.system.home.logs}."
        raise DemoFailedError("\n".join(lines), cure=cure) from error
