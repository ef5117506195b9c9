"""Files of working directories on the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.exits import CommandError
from celeriac.cli.formatting import moment, size
from celeriac.cli.session import Session

if TYPE_CHECKING:
    from celeriac.client.files import Files

Paths = Annotated[
    list[str], typer.Argument(metavar="[PATH]...", help="Files, as listed; all if none is named.")
]
Into = Annotated[
    Path,
    typer.Option("--to", metavar="DIRECTORY", help="Where they go; it is made.", file_okay=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")]


def show_files(session: Session, files: "Files") -> None:
    """List files with their sizes."""
    found = list(files.list())
    if session.output.as_json:
        session.output.json(found)
        return
    rows = ((each.path, size(each.size), moment(each.modified_at)) for each in found)
    session.output.table(("PATH", "SIZE", "CHANGED"), rows)


def fetch_files(
    session: Session, files: "Files", paths: Sequence[str], directory: Path, *, overwrite: bool
) -> None:
    """Download files, keeping their directories; nothing is written over unless asked for."""
    from celeriac.client.files import local_path

    wanted = list(paths) or [each.path for each in files.list()]
    targets = {path: local_path(directory, path) for path in wanted}
    there = [str(target) for target in targets.values() if target.exists()]
    if there and not overwrite:
        raise CommandError(
            f"{there[0]} is there already; nothing was downloaded.",
            cure="--overwrite replaces it, --to names another directory.",
            problem="file_exists",
        )
    sizes = {path: files.download(path, target) for path, target in targets.items()}
    if session.output.as_json:
        session.output.json(
            [
                {"path": path, "file": str(targets[path]), "size": count}
                for path, count in sizes.items()
            ]
        )
        return
    for path, count in sizes.items():
        session.output.raw(f"{targets[path]} · {size(count)}")
