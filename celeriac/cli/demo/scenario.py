"""What the demo does to a running system, through the public client."""

import os
import signal
import textwrap
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.text import Text

import celeriac
from celeriac.cli.core.output import CommandError, ExitCode, duration, plain, printable, short
from celeriac.cli.system import System
from celeriac.client import Client, ClientError, Delta
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.states import LIVE, Status
from celeriac.embedded.output import read_last_lines
from celeriac.kit.words import counted
from celeriac.wire import Event, ExecutionSummary

_POLL_SECONDS = 0.2
_LINE_CHARACTERS = 80
_AT_KILL = 2
"""The worker is killed when so many executions are completed, and so many run."""
_LAST_LINES = 8
_LOG_CHARACTERS = 200
_RESULT_CHARACTERS = 400
_STATED = {"status", "result", "duration_seconds", "input_tokens", "output_tokens"}

Result = Mapping[str, Any]
"""An execution after its end: ids, `_STATED` fields, and counts of its events."""


class DemoFailedError(CommandError):
    """A part of the demo did not do what it is there to show."""

    code = "demo_failed"


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
    if not (document.get("agents") and document.get("tasks") and texts):
        raise CommandError(f"The demo's files in {directory} name no agent, no task or no text.")
    return document, texts


def fault_in(events: Sequence[Event]) -> str | None:
    """Return why an execution did not complete exactly once, by its events; or None."""
    completed = sum(event.type is EventType.COMPLETED for event in events)
    gapless = [event.seq for event in events] == list(range(1, len(events) + 1))
    if completed == 1 and gapless:
        return None
    return f"has {completed} `completed` events{'' if gapless else ' and gaps in its log'}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """The steps of the demo. `deadline` is a `time.monotonic()` time.

    `document` is what `Client.apply` takes; each of its tasks runs once on each of `texts`, which
    is its variable `text`.
    """

    system: System
    document: Mapping[str, Any]
    texts: Mapping[str, str]
    console: Console
    deadline: float

    def run(self) -> Sequence[Result]:
        """Run all steps and return the results. Raises DemoFailedError, ClientError."""
        with self._connect() as client:
            # the demo's home is its own: what runs there is left by a demo that was cut short
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
            return _results(client, progress.labels)

    def _connect(self) -> Client:
        return Client(self.system.api_url, api_key=self.system.api_key)

    def _submit(self, client: Client) -> dict[UUID, tuple[str, str]]:
        """Make agents and tasks, start the executions, and return their tasks and texts."""
        agents, tasks = self.document["agents"], self.document["tasks"]
        client.apply(self.document)
        self._say(
            f"Made {counted(len(agents), 'agent')} and {counted(len(tasks), 'task')} over HTTP."
        )
        execute = client.executions.execute
        labels = {
            execute(task["name"], {"text": text}).execution_id: (task["name"], name)
            for name, text in self.texts.items()
            for task in tasks
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


def _ready_for_kill(states: Sequence[ExecutionSummary]) -> bool:
    statuses = [each.status for each in states]
    return min(statuses.count(Status.COMPLETED), statuses.count(Status.RUNNING)) >= _AT_KILL


def _ended(state: ExecutionSummary) -> bool:
    return state.status.terminal


def _results(client: Client, labels: Mapping[UUID, tuple[str, str]]) -> Sequence[Result]:
    """Return the results of all executions.

    Raises DemoFailedError unless each completed exactly once, and one lost its worker.
    """
    results: list[Result] = []
    faults = []
    for execution_id, (task, text) in labels.items():
        events = list(client.executions.events(execution_id))
        if fault := fault_in(events):
            faults.append(f"{task} on {text} {fault}")
        counts = Counter(event.type for event in events)
        results.append(
            {
                "execution_id": execution_id,
                "task": task,
                "text": text,
                **client.executions.get(execution_id).model_dump(include=_STATED),
                "attempts": counts[EventType.STARTED],
                "workers_lost": counts[EventType.WORKER_LOST],
                "completed_events": counts[EventType.COMPLETED],
            }
        )
    if faults:
        raise DemoFailedError("\n  ".join(["Not all completed exactly once:", *faults]))
    if not any(each["workers_lost"] for each in results):
        raise DemoFailedError("The killed worker held no execution, so nothing was shown.")
    return results


def run_supervised(scenario: Scenario) -> Sequence[Result]:
    """Run the scenario in a thread, while this one supervises the processes.

    Raises CommandError, with the last lines of all logs if the demo failed.
    """
    future: Future[Sequence[Result]] = Future()

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


class Progress:
    """Prints a line for each change of an execution, and the live output of the first.

    `labels` are the tasks and texts of the executions.
    """

    def __init__(self, console: Console, labels: Mapping[UUID, tuple[str, str]]) -> None:
        self.labels = labels
        self.streamed = " on ".join(next(iter(labels.values())))
        self.heard = False
        """Whether there was live output."""
        self._console = console
        self._seen: dict[UUID, tuple[Status, int]] = {}
        self._words = ""

    def update(self, states: Sequence[ExecutionSummary]) -> None:
        """Print what has changed."""
        for state in states:
            now = (state.status, state.attempt)
            if self._seen.get(state.id) != now:
                task, text = self.labels[state.id]
                self._print(f"{task:<14}{text:<22}{state.status.value:<10}attempt {state.attempt}")
            self._seen[state.id] = now

    def stream(self, words: str) -> None:
        """Print live output in lines of some words."""
        self.heard = True
        *lines, self._words = textwrap.wrap(
            self._words + words, _LINE_CHARACTERS, drop_whitespace=False
        ) or [""]
        for line in lines:
            self._print(f"live output   {self.streamed}: {line.strip()}")

    def end_stream(self) -> None:
        """Print the rest of the live output."""
        words, self._words = self._words.strip(), ""
        if words:
            self._print(f"live output   {self.streamed}: {words}")

    def _print(self, line: str) -> None:
        text = f"  {printable(line)}"
        self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


def show_results(console: Console, results: Sequence[Result], seconds: float) -> None:
    """Print each result by task, and what the events prove."""
    for task in dict.fromkeys(each["task"] for each in results):
        console.print(Text(f"\n{task}", style="bold underline"))
        for each in [each for each in results if each["task"] == task]:
            result = printable(short(plain(each["result"]), _RESULT_CHARACTERS))
            totals = (
                f"  {duration(each['duration_seconds'])}, "
                f"{counted(each['input_tokens'], 'token')} read, {each['output_tokens']} written, "
                f"{counted(each['attempts'], 'attempt')}"
            )
            parts = ((f"{each['text']}\n", "bold"), f"  {result}\n", (totals, "dim"))
            console.print(Text.assemble(*parts), soft_wrap=True)
    lost = sum(each["workers_lost"] > 0 for each in results)
    read = sum(each["input_tokens"] for each in results)
    written = sum(each["output_tokens"] for each in results)
    for line in (
        "",
        f"• {counted(len(results), 'execution')}, each completed exactly once by its own log.",
        f"• {lost} of them lost their worker on the way and were run again.",
        f"• {counted(read, 'token')} read and {written:,} written by a model on this machine.",
        f"• {duration(seconds)} from the first request to the last result.",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
