"""What the demo does to a running system, through the public client."""

import os
import signal
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from celeriac.cli.core.output import CommandError, duration, printable, tokens
from celeriac.cli.executions.view import STYLES
from celeriac.cli.system import System
from celeriac.client import Client, ClientError, Delta
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.states import LIVE, Status
from celeriac.kit.words import counted
from celeriac.wire import Event, Execution, ExecutionSummary

_POLL_SECONDS = 0.2
_LIVE_LINES = 4
_LINE_CHARACTERS = 80
_AT_KILL = 2
"""The worker is killed when so many executions are completed, and so many run."""


class DemoFailedError(CommandError):
    """A part of the demo did not do what it is there to show."""

    code = "demo_failed"


@dataclass(frozen=True, slots=True)
class Piece:
    """One execution of the demo: a task on a text."""

    execution_id: UUID
    task: str
    text: str


@dataclass(frozen=True, slots=True)
class Proof:
    """How often an execution was started, lost and completed, counted in its own events."""

    started: int
    lost: int
    completed: int
    gapless: bool

    @classmethod
    def of(cls, events: Sequence[Event]) -> "Proof":
        """Count the events of one execution."""
        kinds = [event.type for event in events]
        return cls(
            started=kinds.count(EventType.STARTED),
            lost=kinds.count(EventType.WORKER_LOST),
            completed=kinds.count(EventType.COMPLETED),
            gapless=[event.seq for event in events] == list(range(1, len(events) + 1)),
        )

    @property
    def holds(self) -> bool:
        """Whether it was completed exactly once."""
        return self.completed == 1 and self.gapless


@dataclass(frozen=True, slots=True)
class Result:
    """An execution of the demo after its end."""

    piece: Piece
    execution: Execution
    proof: Proof


@dataclass(frozen=True, slots=True)
class Scenario:
    """The steps of the demo. `deadline` is a `time.monotonic()` time.

    `document` is what `Client.apply` takes; each of its tasks runs once on each of `texts`, which
    is its variable `text`.
    """

    system: System
    document: dict[str, Any]
    texts: dict[str, str]
    console: Console
    deadline: float

    def run(self) -> Sequence[Result]:
        """Run all steps and return the results. Raises DemoFailedError, ClientError."""
        with self._connect() as client:
            # the demo's home is its own: what runs there is left by a demo that was cut short
            left = list(client.executions.list(status=[each.value for each in LIVE]))
            for execution in left:
                client.executions.cancel(execution.id)
            if left:
                self._say(f"Cancelled {counted(len(left), 'execution')} of an earlier demo.")
            pieces = self._submit(client)
            with _shown(self.console, pieces) as progress:
                stream = threading.Thread(target=self._stream, args=(progress,), daemon=True)
                stream.start()
                self._watch(client, progress, _ready_for_kill, "enough of them run")
                self._kill_worker()
                self._watch(client, progress, _all_ended, "all of them have ended")
                stream.join(max(0.0, self.deadline - time.monotonic()))
            if not progress.heard:
                raise DemoFailedError(f"The live stream of {pieces[0].text} brought no text.")
            get, events = client.executions.get, client.executions.events
            results = [
                Result(each, get(each.execution_id), Proof.of(list(events(each.execution_id))))
                for each in pieces
            ]
        check(results)
        return results

    def _connect(self) -> Client:
        return Client(self.system.api_url, api_key=self.system.api_key)

    def _submit(self, client: Client) -> Sequence[Piece]:
        agents, tasks = self.document["agents"], self.document["tasks"]
        client.apply(self.document)
        self._say(
            f"Made {counted(len(agents), 'agent')} and {counted(len(tasks), 'task')} over HTTP."
        )
        execute = client.executions.execute
        pieces = [
            Piece(execute(task["name"], {"text": text}).execution_id, task["name"], name)
            for name, text in self.texts.items()
            for task in tasks
        ]
        self._say(f"Submitted {counted(len(pieces), 'execution')} to run in the background.")
        return pieces

    def _watch(
        self,
        client: Client,
        progress: "Progress",
        enough: Callable[[Sequence[ExecutionSummary]], bool],
        what: str,
    ) -> None:
        """Show the executions until `enough` of them; `what` names the condition in errors."""
        wanted = {piece.execution_id for piece in progress.pieces}
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
                unfinished = len(wanted) - sum(each.status.terminal for each in states)
                raise DemoFailedError(
                    f"The time is up before {what}: {unfinished} of {len(wanted)} have not ended."
                )
            time.sleep(_POLL_SECONDS)

    def _kill_worker(self) -> None:
        pid = self.system.worker_pid
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
                for heard in client.executions.stream(progress.pieces[0].execution_id):
                    if isinstance(heard, Delta):
                        progress.heard = True
                        progress.stream(str(heard.data.get("text") or ""))
                    elif heard.type is EventType.RETRY_SCHEDULED:
                        progress.stream("\n(cut off with its worker; once more)\n")
        except ClientError:
            return  # `_watch` meets the same error and raises it

    def _say(self, line: str) -> None:
        self.console.print(f"• {line}", markup=False, highlight=False, soft_wrap=True)


def _ready_for_kill(states: Sequence[ExecutionSummary]) -> bool:
    statuses = [each.status for each in states]
    return min(statuses.count(Status.COMPLETED), statuses.count(Status.RUNNING)) >= _AT_KILL


def _all_ended(states: Sequence[ExecutionSummary]) -> bool:
    return all(each.status.terminal for each in states)


def check(results: Sequence[Result]) -> None:
    """Raise DemoFailedError unless each completed exactly once, one of them after a lost worker."""
    faults = [
        f"{each.piece.task} on {each.piece.text} has {each.proof.completed} `completed` events"
        f"{'' if each.proof.gapless else ' and gaps in its log'}"
        for each in results
        if not each.proof.holds
    ]
    if faults:
        raise DemoFailedError("\n  ".join(["Not all completed exactly once:", *faults]))
    if not any(each.proof.lost for each in results):
        raise DemoFailedError("The killed worker held no execution, so nothing was shown.")


class Progress:
    """Shows the executions as a line per change, and live output in lines of some words."""

    def __init__(self, console: Console, pieces: Sequence[Piece]) -> None:
        self.pieces = pieces
        self.heard = False
        """Whether there was live output."""
        self.words = ""
        """Live output that is not shown yet."""
        self.states: dict[UUID, ExecutionSummary] = {}
        self._console = console

    def update(self, states: Sequence[ExecutionSummary]) -> None:
        """Show what has changed."""
        before, self.states = self.states, {each.id: each for each in states}
        for piece in self.pieces:
            old, new = before.get(piece.execution_id), self.states.get(piece.execution_id)
            if new and (old is None or (old.status, old.attempt) != (new.status, new.attempt)):
                status = f"{new.status.value:<10}attempt {new.attempt}"
                self._print(f"{piece.task:<14}{piece.text:<22}{status}")

    def stream(self, words: str) -> None:
        """Show live output of the first execution."""
        lines = textwrap.wrap(self.words + words, _LINE_CHARACTERS, drop_whitespace=False)
        self.words = lines.pop() if lines else ""
        for line in lines:
            self.show_words(line)

    def show_words(self, words: str) -> None:
        """Show a line of live output."""
        if words.strip():
            self._print(f"live output   {self.pieces[0].text:<22}{words.strip()}")

    def _print(self, line: str) -> None:
        self._console.print(
            f"  {printable(line)}", markup=False, highlight=False, emoji=False, soft_wrap=True
        )


class LiveProgress(Progress):
    """Shows the executions as a table that is drawn again and again, and live output below it."""

    def update(self, states: Sequence[ExecutionSummary]) -> None:
        """Take what the next drawing shows."""
        self.states = {each.id: each for each in states}

    def stream(self, words: str) -> None:
        """Take what the next drawing shows."""
        self.words += words

    def draw(self) -> Group:
        """Return table and live output."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("TASK", "TEXT", "STATUS", "ATTEMPT", "RAN", "TOKENS"):
            table.add_column(name)
        for piece in self.pieces:
            state = self.states.get(piece.execution_id)
            table.add_row(piece.task, piece.text, *(_cells(state) if state else ("…",)))
        if not self.words:
            return Group(table)
        tail = printable("\n".join(self.words.splitlines()[-_LIVE_LINES:]))
        title = f"live: {self.pieces[0].task} on {self.pieces[0].text}"
        return Group(table, Panel(Text(tail), title=title, title_align="left"))


def _cells(state: ExecutionSummary) -> tuple[str | Text, ...]:
    ran = None
    if state.started_at is not None:
        ran = ((state.completed_at or datetime.now(UTC)) - state.started_at).total_seconds()
    return (
        Text(state.status.value, style=STYLES[state.status]),
        str(state.attempt),
        duration(ran),
        tokens(state.input_tokens, state.output_tokens),
    )


@contextmanager
def _shown(console: Console, pieces: Sequence[Piece]) -> Iterator[Progress]:
    """Yield the progress that suits the console: drawn on a terminal, lines elsewhere."""
    if console.is_terminal:
        drawn = LiveProgress(console, pieces)
        with Live(console=console, refresh_per_second=8, get_renderable=drawn.draw):
            yield drawn
    else:
        plain = Progress(console, pieces)
        yield plain
        plain.show_words(plain.words)
