"""The live view: one thread reads the stream, another draws ten times a second."""

import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from rich.live import Live

from celeriac.cli.core.context import CommandContext
from celeriac.cli.executions.view import View, render
from celeriac.client import Delta
from celeriac.embedded.output import LogFollower
from celeriac.logs.reading import LogLine, parse_line, read_execution_lines
from celeriac.logs.writer import execution_file
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
        _drawing(live, view, tail, lock),
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


@contextmanager
def _drawing(live: Live, view: View, tail: LogTail, lock: threading.Lock) -> Iterator[None]:
    """Draw the view until the block ends, also without events: it shows running clocks."""
    end = threading.Event()

    def draw() -> None:
        with lock:
            tail.read()
            live.update(render(view, tail.lines), refresh=True)

    def run() -> None:
        while not end.wait(_REFRESH_SECONDS):
            draw()

    thread = threading.Thread(target=run, name="screen", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        draw()
