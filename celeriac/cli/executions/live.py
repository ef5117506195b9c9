"""The live view: one thread reads the stream, another draws ten times a second."""

import sys
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from uuid import UUID

from rich.live import Live

from celeriac.cli.core.context import CommandContext
from celeriac.cli.executions.view import View, render
from celeriac.client import Delta
from celeriac.embedded.output import LogFollower
from celeriac.logs import LogLine, execution_file, parse_line, read_execution_lines
from celeriac.wire import Execution

_REFRESH_SECONDS = 0.1
_KEPT_LINES = 50


def follow_live(context: CommandContext, execution: Execution, timeout: float | None) -> None:
    """Show the live view until the execution has ended. Raises what the client raises."""
    view = View.of(execution)
    lock = threading.Lock()
    tail = LogTail(context.logs, execution.id)
    with (
        Live(console=context.output.err, auto_refresh=False) as live,
        _Drawing(live, view, tail, lock),
    ):
        stream = context.client.executions.stream(
            execution.id, timeout=timeout, on_away=context.say_away
        )
        for each in stream:
            with lock:
                if isinstance(each, Delta):
                    view.add_output(each)
                else:
                    view.apply(each)


class LogTail:
    """The last log lines of one execution, if its log file is on this machine."""

    def __init__(self, directory: Path, execution_id: UUID) -> None:
        path = execution_file(directory, str(execution_id))
        # it begins at the current end of the file; lines that are written meanwhile are read twice
        self._follower = LogFollower(path, most_bytes=sys.maxsize)
        earlier = read_execution_lines(directory, str(execution_id)) if path.exists() else ()
        self.lines = deque[LogLine](earlier, maxlen=_KEPT_LINES)

    def read(self) -> None:
        """Read new lines."""
        parsed = (parse_line(text.encode()) for text in self._follower.read_lines())
        self.lines.extend(line for line in parsed if line and line not in self.lines)


class _Drawing:
    """Draws the view until the context ends, also without events: it shows running clocks."""

    def __init__(self, live: Live, view: View, tail: LogTail, lock: threading.Lock) -> None:
        self._live = live
        self._view = view
        self._tail = tail
        self._lock = lock
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()
        self._draw()

    def _run(self) -> None:
        while not self._end.wait(_REFRESH_SECONDS):
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            self._tail.read()
            self._live.update(render(self._view, self._tail.lines), refresh=True)
