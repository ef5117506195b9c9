"""The demo's course of events, told from a thread beside the one that supervises."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import UUID

from rich.console import Console

from celeriac.cli.core.output import CommandError
from celeriac.cli.demo.board import Board, open_board
from celeriac.cli.demo.plan import Plan
from celeriac.cli.demo.work import Ended, Piece, clear_away, collect, set_up, submit
from celeriac.cli.follow.view import View
from celeriac.cli.system import System
from celeriac.client import Client, ClientError, Delta
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.states import Status
from celeriac.wire import ExecutionSummary

_POLL_SECONDS = 0.2
_COMPLETED_BEFORE_KILL = 2
_RUNNING_AT_KILL = 2


class DemoFailedError(CommandError):
    """A part of the demo did not do what it is there to show."""

    code = "demo_failed"


class Story(threading.Thread):
    """Runs the demo against a running system; afterwards `ended` or `failure` is set."""

    def __init__(self, system: System, plan: Plan, console: Console, deadline: float) -> None:
        """`deadline` is a `time.monotonic()` time."""
        super().__init__(name="demo", daemon=True)
        self.ended: Sequence[Ended] = ()
        self.failure: Exception | None = None
        self._system = system
        self._plan = plan
        self._console = console
        self._deadline = deadline

    def run(self) -> None:
        """Tell the story; an error ends it and is kept for the thread that waits."""
        try:
            with Client(self._system.api_url, api_key=self._system.api_key) as client:
                self._tell(client)
        except Exception as error:  # noqa: BLE001 - raised again by whoever started this thread
            self.failure = error

    def _tell(self, client: Client) -> None:
        if left := clear_away(client):
            self._say(f"Cancelled {left} executions that an earlier demo has left.")
        set_up(client, self._plan)
        self._say(
            f"Made {len(self._plan.agents)} agents and {len(self._plan.tasks)} tasks over HTTP."
        )
        pieces = submit(client, self._plan)
        self._say(f"Submitted {len(pieces)} executions; they run in the background now.")
        with open_board(self._console, pieces) as board:
            streaming = _Streaming(self._system, pieces[0], board)
            streaming.start()
            self._watch(client, pieces, board, _ready_for_the_kill, "enough of them run")
            self._kill_worker()
            self._watch(client, pieces, board, _all_ended, "all of them have ended")
            streaming.join(max(0.0, self._deadline - time.monotonic()))
        if not streaming.heard:
            raise DemoFailedError(f"The live stream of {pieces[0].text} brought no text.")
        self.ended = collect(client, pieces)
        self._judge()

    def _watch(
        self,
        client: Client,
        pieces: Sequence[Piece],
        board: Board,
        enough: Callable[[Sequence[ExecutionSummary]], bool],
        what: str,
    ) -> None:
        """Show how the executions stand until `enough` of it; `what` names what is waited for."""
        wanted = {piece.execution_id for piece in pieces}
        while True:
            states = _states(client, wanted)
            board.update(states)
            _refuse_failed(states.values())
            if enough(list(states.values())):
                return
            if time.monotonic() > self._deadline:
                unfinished = sum(not each.status.terminal for each in states.values())
                raise DemoFailedError(
                    f"The time is up before {what}: {unfinished} of {len(wanted)} have not ended."
                )
            time.sleep(_POLL_SECONDS)

    def _kill_worker(self) -> None:
        pid = self._system.worker_pid
        if pid is None:
            raise DemoFailedError("The worker that was to be killed does not run.")
        os.kill(pid, signal.SIGKILL)
        self._say(
            f"Killed the worker (process {pid}) with SIGKILL. The supervisor starts another; what "
            "the dead one held is taken back when its lease of 5 seconds is over."
        )

    def _judge(self) -> None:
        faults = [fault for each in self.ended if (fault := each.fault)]
        if faults:
            raise DemoFailedError("\n  ".join(["Not all completed exactly once:", *faults]))
        if not any(each.proof.lost for each in self.ended):
            raise DemoFailedError("The kill hit no execution, so nothing was shown by it.")

    def _say(self, line: str) -> None:
        self._console.print(f"• {line}", markup=False, highlight=False, soft_wrap=True)


class _Streaming(threading.Thread):
    """Follows one execution over Server-Sent Events and hands its words to the board."""

    def __init__(self, system: System, piece: Piece, board: Board) -> None:
        super().__init__(name="stream", daemon=True)
        self.heard = False
        self._system = system
        self._piece = piece
        self._board = board

    def run(self) -> None:
        """Follow it to its end."""
        try:
            with Client(self._system.api_url, api_key=self._system.api_key) as client:
                self._follow(client)
        except ClientError:
            # the watching thread meets the same trouble, and tells it
            return

    def _follow(self, client: Client) -> None:
        view = View(self._piece.execution_id, self._piece.task)
        for heard in client.executions.stream(self._piece.execution_id):
            if isinstance(heard, Delta):
                words = view.hear(heard)
                self.heard = self.heard or bool(words)
                self._board.stream(self._piece, words)
            elif heard.type is EventType.RETRY_SCHEDULED:
                self._board.stream(self._piece, "\n(cut off with its worker; once more)\n")


def _states(client: Client, wanted: set[UUID]) -> Mapping[UUID, ExecutionSummary]:
    """Return how the executions stand; one request, for they are the newest there are."""
    found: dict[UUID, ExecutionSummary] = {}
    for execution in client.executions.list():
        if execution.id in wanted:
            found[execution.id] = execution
        if len(found) == len(wanted):
            break
    return found


def _refuse_failed(states: Iterable[ExecutionSummary]) -> None:
    for each in states:
        if each.status in {Status.FAILED, Status.CANCELLED}:
            raise DemoFailedError(
                f"{each.task_name} ended {each.status.value}: {each.error_code}: "
                f"{each.error_message}"
            )


def _ready_for_the_kill(states: Sequence[ExecutionSummary]) -> bool:
    statuses = [each.status for each in states]
    running = statuses.count(Status.RUNNING)
    completed = statuses.count(Status.COMPLETED)
    return completed >= _COMPLETED_BEFORE_KILL and running >= _RUNNING_AT_KILL


def _all_ended(states: Sequence[ExecutionSummary]) -> bool:
    return all(each.status.terminal for each in states)
