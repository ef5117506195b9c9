"""What commands write: tables and fields for people, JSON for programs."""

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celeriac.cli.formatting import printable

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 200
"""Characters a line where no terminal says how many; tables are as wide as they need to be."""
_GAP = 2
"""Spaces between two columns of a table."""
_NARROWEST = 8
"""Characters that are left of a cell that is shortened."""


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

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        cut: Collection[str] = (),
        drop: Sequence[str] = (),
    ) -> None:
        """Write rows of text under the names of their columns, one line a row.

        Where the terminal is too narrow, the columns of `cut` are shortened, then those of `drop`
        are left out in that order, which is said on stderr. What is in neither is always whole, so
        that ids can be copied.
        """
        from rich.cells import cell_len
        from rich.table import Table
        from rich.text import Text

        cells = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
        natural = {
            name: max(cell_len(each) for each in (name, *(row[index] for row in cells)))
            for index, name in enumerate(columns)
        }
        room = self.out.width if self.out.is_terminal else sys.maxsize
        widths = fitted(natural, room, cut=cut, drop=drop)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name, width in widths.items():
            table.add_column(name, width=width, no_wrap=True, overflow="ellipsis")
        for row in cells:
            shown = zip(columns, row, strict=True)
            table.add_row(*(Text(cell) for name, cell in shown if name in widths))
        needed = sum(widths.values()) + _GAP * len(widths)
        # wider than a narrow terminal at the worst: rich would shorten every column
        self.out.width = max(self.out.width, needed)
        self.out.print(table)
        if left_out := [name for name in columns if name not in widths]:
            self.say(f"Left out for want of room: {', '.join(left_out)}. --json has everything.")

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


def fitted(
    natural: Mapping[str, int], room: int, *, cut: Collection[str], drop: Sequence[str]
) -> dict[str, int]:
    """Return the widths of the columns that are shown, by name.

    `natural` are the widths of the longest cells, `room` is that of a line.
    """
    widths = dict(natural)

    def needed(least: Mapping[str, int]) -> int:
        return sum(least.values()) + _GAP * (len(least) - 1)

    def smallest() -> dict[str, int]:
        return {
            name: min(width, max(_NARROWEST, len(name))) if name in cut else width
            for name, width in widths.items()
        }

    for name in drop:
        if needed(smallest()) <= room:
            break
        widths.pop(name, None)
    least = smallest()
    while needed(widths) > room and widths != least:
        loose = [name for name in widths if widths[name] > least[name]]
        widest = max(loose, key=widths.__getitem__)
        widths[widest] -= 1
    return widths


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if terminal else _PIPE_WIDTH)
