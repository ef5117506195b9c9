"""Listing and downloading files of executions and sessions."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import typer

from celeriac.cli.core.context import CommandContext
from celeriac.cli.core.output import CommandError, size

if TYPE_CHECKING:
    from celeriac.client.sessions import Files

Paths = Annotated[
    list[str], typer.Argument(metavar="[PATH]...", help="Files, as listed; all if none is named.")
]
Into = Annotated[
    Path, typer.Option("--to", metavar="DIRECTORY", help="Target; it is created.", file_okay=False)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]


def show_files(context: CommandContext, files: "Files") -> None:
    """List files with their sizes."""
    context.output.write_list(
        files.list(),
        ("PATH", "SIZE", "CHANGED"),
        lambda each: (each.path, size(each.size), each.modified_at),
    )


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Raise CommandError if there is a file at `target` that must not be overwritten."""
    if target.exists() and not overwrite:
        raise CommandError(
            f"{target} exists; nothing was downloaded.",
            cure="--overwrite replaces it; or name another target.",
            problem="file_exists",
        )


def save(target: Path, pieces: Iterable[bytes]) -> int:
    """Write a file and return its size; it is created or replaced when it is complete.

    Raises CommandError.
    """
    partial = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        try:
            with partial.open("xb") as file:
                written = sum(map(file.write, pieces))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise CommandError(
            f"{target} can't be written: {error.strerror}.", problem="file_not_written"
        ) from error
    return written


def fetch_files(
    context: CommandContext,
    files: "Files",
    paths: Sequence[str],
    directory: Path,
    *,
    overwrite: bool,
) -> None:
    """Download files with their directories. Raises CommandError for existing files."""
    from celeriac.client.sessions import local_path

    wanted = list(paths) or [each.path for each in files.list()]
    targets = {path: local_path(directory, path) for path in wanted}
    for target in targets.values():
        refuse_existing(target, overwrite=overwrite)
    sizes = {path: files.download(path, target) for path, target in targets.items()}
    context.output.write(
        [
            {"path": path, "file": str(targets[path]), "size": count}
            for path, count in sizes.items()
        ],
        "\n".join(f"{targets[path]} · {size(count)}" for path, count in sizes.items()),
    )
