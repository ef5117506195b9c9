"""`celeriac executions export`: the executions that match as CSV or NDJSON."""

from codecs import getincrementaldecoder
from collections.abc import Iterable
from enum import StrEnum
from io import IncrementalNewlineDecoder
from pathlib import Path
from typing import Annotated

import typer

from celeriac.cli.core.context import CommandContext
from celeriac.cli.core.files import Overwrite, refuse_existing, save
from celeriac.cli.core.output import size
from celeriac.cli.executions.listing import Bulky
from celeriac.cli.executions.selection import LiveSelection
from celeriac.kit.text import printable

_STDOUT = "-"


class ExportFormat(StrEnum):
    """How an export is written."""

    CSV = "csv"
    NDJSON = "ndjson"


def export(
    context: CommandContext,
    *,
    form: Annotated[
        ExportFormat, typer.Option("--format", help="csv, or ndjson: a JSON object on each line.")
    ] = ExportFormat.CSV,
    file: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Target; - for stdout.", dir_okay=False
        ),
    ] = Path(_STDOUT),
    overwrite: Overwrite = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", "-n", min=1, help="At most this many, the newest first; all if not given."
        ),
    ] = None,
    selection: LiveSelection,
    include: Annotated[list[Bulky], typer.Option(help="Also write this field. Repeatable.")] = [],  # noqa: B006 - Typer copies it
) -> None:
    """Write the executions that match to a file, the newest first.

    A CSV has a column for each field of the list; labels and other objects are
    JSON. A text that a spreadsheet could read as a formula begins with '. The
    file appears when it is complete.

    Examples:
      celeriac executions export --since 7d -o executions.csv
      celeriac executions export --format ndjson --status failed --include error_details
    """
    to_stdout = str(file) == _STDOUT
    if not to_stdout:
        refuse_existing(file, overwrite=overwrite)
    pieces = context.client.executions.export(
        form.value, include=include or None, limit=limit, **selection.for_client()
    )
    if to_stdout:
        _write(context, pieces)
        return
    written = save(file, pieces)
    context.output.json({"written": str(file), "size": written})
    context.output.say(f"Written to {file} · {size(written)}.")


def _write(context: CommandContext, pieces: Iterable[bytes]) -> None:
    out = context.output.out
    decoder = getincrementaldecoder("utf-8")()
    shown = IncrementalNewlineDecoder(None, translate=True)  # a CSV has CR and LF
    for piece in pieces:
        text = decoder.decode(piece)
        out.file.write(printable(shown.decode(text)) if out.is_terminal else text)
    out.file.flush()
