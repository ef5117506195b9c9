"""What commands write: tables and fields for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celeriac.cli.formatting import printable

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 200
"""Columns where nobody says how wide the paper is: no cell is cut for lack of a terminal."""


class Output:
    """The two channels of a command: answers on stdout, talk about them on stderr."""

    def __init__(self, *, as_json: bool) -> None:
        """`as_json` makes every answer one JSON value on stdout."""
        self.as_json = as_json
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    def json(self, value: Any) -> None:
        """Write a value (models and dataclasses too) as indented JSON."""
        from pydantic_core import to_jsonable_python

        data = to_jsonable_python(value, by_alias=True)
        self.raw(json.dumps(data, indent=2, ensure_ascii=False))

    def json_line(self, value: Any) -> None:
        """Write a value as JSON on one line, for readers of a stream."""
        from pydantic_core import to_jsonable_python

        self.raw(json.dumps(to_jsonable_python(value, by_alias=True), ensure_ascii=False))

    def raw(self, text: str) -> None:
        """Write text as it is, made harmless where a terminal would read it."""
        shown = printable(text) if self.out.is_terminal else text
        self.out.print(shown, markup=False, highlight=False, soft_wrap=True, emoji=False)

    def say(self, text: str) -> None:
        """Tell a person something beside the answer."""
        if not self.as_json:
            self.err.print(
                printable(text), markup=False, highlight=False, soft_wrap=True, emoji=False
            )

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Write rows of text under the names of their columns."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        self.out.print(table)

    def fields(self, values: Mapping[str, str]) -> None:
        """Write names and values, one pair a line."""
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in values.items():
            table.add_row(name, Text(printable(value)))
        self.out.print(table)


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if terminal else _PIPE_WIDTH)
