"""What the demo shows while it works: a live table on a terminal, plain lines elsewhere."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from celeriac.cli.core.output import duration, printable, tokens
from celeriac.cli.demo.work import Piece
from celeriac.cli.follow.view import STYLES
from celeriac.wire import ExecutionSummary

_STREAM_LINES = 4
_LINE_CHARACTERS = 80


class Board(Protocol):
    """Shows how the executions stand, and the words of the one that is streamed."""

    def update(self, states: Mapping[UUID, ExecutionSummary]) -> None:
        """Show how all executions stand now."""

    def stream(self, piece: Piece, words: str) -> None:
        """Show a piece of live output of one execution."""


@contextmanager
def open_board(console: Console, pieces: Sequence[Piece]) -> Iterator[Board]:
    """Yield the board that suits the console."""
    if not console.is_terminal:
        plain = PlainBoard(console, pieces)
        yield plain
        plain.finish()
        return
    with Live(console=console, refresh_per_second=8) as live:
        yield LiveBoard(live, pieces)


class PlainBoard:
    """One line for each change of state."""

    def __init__(self, console: Console, pieces: Sequence[Piece]) -> None:
        self._console = console
        self._pieces = pieces
        self._known: dict[UUID, tuple[str, int]] = {}
        self._streamed = ""
        self._words = ""

    def update(self, states: Mapping[UUID, ExecutionSummary]) -> None:
        """Say what has changed."""
        for piece in self._pieces:
            found = states.get(piece.execution_id)
            if found is None:
                continue
            now = (found.status.value, found.attempt)
            if self._known.get(piece.execution_id) != now:
                self._known[piece.execution_id] = now
                self._say(f"{piece.task:<14}{piece.text:<22}{now[0]:<10}attempt {now[1]}")

    def stream(self, piece: Piece, words: str) -> None:
        """Say the live output in lines of some words each, as they come."""
        self._streamed = piece.text
        self._words += words
        while "\n" in self._words or len(self._words) > _LINE_CHARACTERS:
            line, rest = self._words[:_LINE_CHARACTERS], self._words[_LINE_CHARACTERS:]
            end = line.find("\n") if "\n" in line else line.rfind(" ")
            if end < 0:  # one very long word
                end = len(line) - 1
            self._words = line[end + 1 :] + rest
            self._say_streamed(line[: end + 1])

    def finish(self) -> None:
        """Say what is left of the live output."""
        self._say_streamed(self._words)

    def _say_streamed(self, words: str) -> None:
        if words.strip():
            self._say(f"live output   {self._streamed:<22}{words.strip()}")

    def _say(self, line: str) -> None:
        self._console.print(
            f"  {printable(line)}", markup=False, highlight=False, emoji=False, soft_wrap=True
        )


class LiveBoard:
    """A table that is drawn again and again, with the streamed words below it."""

    def __init__(self, live: Live, pieces: Sequence[Piece]) -> None:
        self._live = live
        self._pieces = pieces
        self._states: Mapping[UUID, ExecutionSummary] = {}
        self._streamed: Piece | None = None
        self._words = ""
        self._lock = threading.Lock()

    def update(self, states: Mapping[UUID, ExecutionSummary]) -> None:
        """Draw the table anew."""
        with self._lock:
            self._states = states
            self._live.update(self._draw())

    def stream(self, piece: Piece, words: str) -> None:
        """Draw the words below the table."""
        with self._lock:
            self._streamed = piece
            self._words += words
            self._live.update(self._draw())

    def _draw(self) -> RenderableType:
        parts: list[RenderableType] = [_table(self._pieces, self._states)]
        if self._streamed is not None:
            tail = "\n".join(self._words.splitlines()[-_STREAM_LINES:])
            title = f"live: {self._streamed.task} on {self._streamed.text}"
            parts.append(Panel(Text(printable(tail)), title=title, title_align="left"))
        return Group(*parts)


def _table(pieces: Sequence[Piece], states: Mapping[UUID, ExecutionSummary]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("TASK", "TEXT", "STATUS", "ATTEMPT", "RAN", "TOKENS"):
        table.add_column(name)
    for piece in pieces:
        found = states.get(piece.execution_id)
        if found is None:
            table.add_row(piece.task, piece.text, "…")
            continue
        table.add_row(
            piece.task,
            piece.text,
            Text(found.status.value, style=STYLES[found.status]),
            str(found.attempt),
            duration(_ran(found)),
            tokens(found.input_tokens, found.output_tokens),
        )
    return table


def _ran(execution: ExecutionSummary) -> float | None:
    if execution.started_at is None:
        return None
    end = execution.completed_at or datetime.now(UTC)
    return (end - execution.started_at).total_seconds()
