"""Tables on narrow terminals."""

from io import StringIO

import pytest
from rich.console import Console

from celeriac.cli.core.output import Output, fitted

ID = "01a21573-c050-7000-a89e-d3a9dd42c929"
COLUMNS = ("ID", "TASK", "STATUS", "ATTEMPT", "CREATED", "TOKENS", "ERROR")
ROW = (ID, "summarise-the-news-of-today", "completed", "1", "2026-11-26 01:16:51", "120 → 45", "")


def _drawn(width: int | None, *rows: tuple[str, ...]) -> tuple[str, str]:
    """Return what is on standard output and on standard error."""
    output = Output(as_json=False)
    out, err = StringIO(), StringIO()
    output.out = Console(file=out, width=width or 200, force_terminal=width is not None)
    output.err = Console(file=err, width=200)
    output.table(COLUMNS, rows, cut=("TASK", "ERROR"), drop=("TOKENS", "ATTEMPT", "CREATED"))
    return out.getvalue(), err.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_ids_are_whole_on_any_terminal_and_a_row_is_one_line(width: int) -> None:
    out, err = _drawn(width, ROW, ROW)
    lines = out.splitlines()
    assert len(lines) == 3
    assert all(ID in line and "completed" in line for line in lines[1:])
    assert ("Left out for want of room: " in err) is (width < 120)


def test_no_line_is_longer_than_the_terminal() -> None:
    out, _ = _drawn(80, ROW)
    plain = out.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert max(map(len, plain.splitlines())) <= 80
    assert "summaris" in plain


def test_nothing_is_cut_where_there_is_no_terminal() -> None:
    long = ("x" * 300, *ROW[1:])
    out, err = _drawn(None, long)
    assert long[0] in out
    assert ROW[1] in out
    assert err == ""


def test_columns_are_shortened_before_others_go() -> None:
    natural = {"ID": 36, "TASK": 30, "CREATED": 19}
    assert fitted(natural, 80, cut=("TASK",), drop=("CREATED",)) == {
        "ID": 36,
        "TASK": 21,
        "CREATED": 19,
    }
    assert fitted(natural, 60, cut=("TASK",), drop=("CREATED",)) == {"ID": 36, "TASK": 22}
    assert fitted(natural, 20, cut=("TASK",), drop=("CREATED",)) == {"ID": 36, "TASK": 8}
