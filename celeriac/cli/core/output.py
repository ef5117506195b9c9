"""Output of commands: tables and fields, JSON, formatted values, exit codes and error messages."""

import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum, IntEnum
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from celeriac.domain.errors import (
    CeleriacError,
    ConfigurationError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from celeriac.domain.usage import dollars
from celeriac.embedded.errors import StopRequestedError
from celeriac.kit import units
from celeriac.kit.text import clip, printable
from celeriac.kit.units import size as size  # noqa: PLC0414 - exported for commands
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

_ABSENT = "-"


def duration(seconds: float | None) -> str:
    """Return `0.42 s`, `12.3 s`, `2 min 5 s`, `1 h 3 min` or `2 d 4 h`; `-` for None."""
    return _ABSENT if seconds is None else units.duration(seconds)


def moment(at: datetime | None) -> str:
    """Return a time in the local zone, to the second."""
    return _ABSENT if at is None else f"{at.astimezone():%Y-%m-%d %H:%M:%S}"


def clock(at: datetime) -> str:
    """Return the time of day in the local zone, to the millisecond."""
    return f"{at.astimezone():%H:%M:%S.%f}"[:-3]


def tokens(read: int, written: int) -> str:
    """Return tokens read and written by models, as `120 → 45`."""
    return f"{read:,} → {written:,}" if read or written else _ABSENT


def money(amount: Decimal) -> str:
    """Return US dollars: two digits after the point, up to six of less than a dollar."""
    return f"${dollars(round(amount, 2 if amount >= 1 else 6))}"


def amounts(cost: Decimal, tokens: int) -> str:
    """Return US dollars and tokens, without what is 0, as `$0.02 and 3 tokens`."""
    return " and ".join(
        [*([money(cost)] if cost else []), *([counted(tokens, "token")] if tokens else [])]
    )


def short(text: str, most: int = 60) -> str:
    """Return `text` on one line and cut to `most` characters."""
    return clip(" ".join(text.split()), most)


def plain(value: Any) -> str:
    """Return a JSON value as text: strings as they are, everything else as indented JSON."""
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def cell(value: object) -> str:
    """Return a value of a table: local times, yes or no, the value of an enum, `-` for None."""
    if value is None or isinstance(value, datetime):
        return moment(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value.value if isinstance(value, Enum) else value)


_PIPE_WIDTH = 200
"""Characters per line without a terminal; tables are as wide as they need to be."""
_GAP = 2
"""Spaces between two columns of a table."""
_NARROWEST = 8
"""The least characters of a shortened cell."""


class Output:
    """The output of a command: its answer on stdout, messages about it on stderr."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    @property
    def can_ask(self) -> bool:
        """Whether a person can be asked: on a terminal, without `as_json`."""
        return not self.as_json and sys.stdin.isatty() and self.err.is_terminal

    def write(self, value: Any, text: str) -> None:
        """Write an answer: `value` as JSON, or `text`."""
        self.json(value)
        if not self.as_json:
            self.raw(text)

    def write_details(self, value: Any, fields: Mapping[str, object]) -> None:
        """Write one thing: `value` as JSON, or its `fields`, one a line, without empty texts."""
        self.json(value)
        if self.as_json:
            return
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, each in fields.items():
            if each != "":
                table.add_row(name, Text(printable(cell(each))))
        self.out.print(table)

    def write_list(
        self,
        items: Iterable[T],
        columns: Sequence[str],
        row: Callable[[T], Sequence[object]],
        *,
        limit: int | None = None,
        cut: Collection[str] = (),
        drop: Sequence[str] = (),
    ) -> None:
        """Write up to `limit` items: as a JSON array, or as a table with a `row` for each.

        `cut` and `drop` as in `table`.
        """
        found = list(islice(items, limit))
        self.json(found)
        if not self.as_json:
            self.table(columns, (map(cell, row(each)) for each in found), cut=cut, drop=drop)

    def json(self, value: Any, *, indent: int | None = 2) -> None:
        """Write a value (models and dataclasses too), if the answer is JSON.

        `indent=None` writes a single line.
        """
        if not self.as_json:
            return
        from pydantic_core import to_jsonable_python

        data = to_jsonable_python(value, by_alias=True)
        self.raw(json.dumps(data, indent=indent, ensure_ascii=False))

    def raw(self, text: str) -> None:
        """Write text as it is; on a terminal without control characters."""
        shown = printable(text) if self.out.is_terminal else text
        self.out.print(shown, markup=False, highlight=False, soft_wrap=True, emoji=False)

    def say(self, text: str) -> None:
        """Write a message to stderr; nothing with `as_json`."""
        if not self.as_json:
            self.err.print(
                printable(text), markup=False, highlight=False, soft_wrap=True, emoji=False
            )

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Iterable[str]],
        *,
        cut: Collection[str] = (),
        drop: Sequence[str] = (),
    ) -> None:
        """Write rows of text under the names of their columns, one line a row.

        On a narrow terminal the columns of `cut` are shortened, then those of `drop` are left out
        in that order, with a message on stderr. Other columns are always whole, so that ids can be
        copied.
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


class ExitCode(IntEnum):
    """Exit codes of commands, documented in docs/cli.md."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    DENIED = 4
    UNAVAILABLE = 5
    ENDED_ALREADY = 6
    INTERRUPTED = 130


class CommandError(CeleriacError):
    """A command failed; `cure` says what helps."""

    code = "command_failed"

    def __init__(
        self,
        message: str,
        *,
        cure: str | None = None,
        exit_code: ExitCode = ExitCode.FAILED,
        problem: str | None = None,
    ) -> None:
        """`problem` is the server's code, shown in place of the error's own."""
        super().__init__(message)
        self.cure = cure
        self.exit_code = exit_code
        self.problem = problem or self.code


class UsageProblemError(CommandError):
    """The arguments are wrong."""

    code = "usage"

    def __init__(self, message: str, *, cure: str | None = None) -> None:
        super().__init__(message, cure=cure, exit_code=ExitCode.USAGE)


_CODES: tuple[tuple[type[CeleriacError], ExitCode], ...] = (
    (InvalidInputError, ExitCode.USAGE),
    (ConfigurationError, ExitCode.USAGE),
    (NotFoundError, ExitCode.NOT_FOUND),
    (UnauthenticatedError, ExitCode.DENIED),
    (ForbiddenError, ExitCode.DENIED),
    (UnavailableError, ExitCode.UNAVAILABLE),
    (StopRequestedError, ExitCode.INTERRUPTED),
)


def exit_code_of(error: CeleriacError) -> ExitCode:
    """Return the exit code of `error`."""
    if isinstance(error, CommandError):
        return error.exit_code
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return ExitCode.FAILED


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """An error as the terminal shows it: one line, and below it the cure."""

    message: str
    code: str | None = None
    cure: str | None = None

    def lines(self) -> Iterator[str]:
        """Yield `error: MESSAGE [CODE]`, the message's further lines, and the cure."""
        first, *rest = self.message.splitlines() or ["failed without a message"]
        yield f"error: {first} [{self.code}]" if self.code else f"error: {first}"
        yield from rest
        if self.cure:
            yield f"       {self.cure}"


def report_of(error: CeleriacError) -> ErrorReport:
    """Return an error of ours as the terminal shows it."""
    if isinstance(error, CommandError):
        return ErrorReport(error.message, error.problem, error.cure or CURES.get(error.problem))
    return ErrorReport(error.message, error.code, CURES.get(error.code))


CURES = {
    "task_inactive": "`celeriac tasks activate TASK` switches it on.",
    "unauthenticated": "Give a key with --api-key or CELERIAC_API_KEY; `celeriac keys create` "
    "makes one.",
    "database_unavailable": "`celeriac doctor` shows what answers and what does not.",
    "broker_unavailable": "`celeriac doctor` shows what answers and what does not.",
}
"""Cures by code, for errors that other programs raise too."""
