"""Options of `celeriac run` that record model traffic, or replay it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from celeriac.cli.exits import CommandError, UsageProblemError
from celeriac.cli.session import Session
from celeriac.kit.ids import parse_uuid

if TYPE_CHECKING:
    from celeriac.wire import Execution

_AGENT = "What its agent may do"

RecordTo = Annotated[
    Path | None,
    typer.Option(
        "--record-to",
        metavar="FILE",
        help="Record it, and save the cassette here when it has ended.",
        dir_okay=False,
        rich_help_panel=_AGENT,
    ),
]
Replay = Annotated[
    str | None,
    typer.Option(
        "--replay",
        metavar="FILE|ID",
        help="Answer its model requests from a cassette: a file, or the id of a cassette or of "
        "the execution that recorded it.",
        rich_help_panel=_AGENT,
    ),
]


def check_recording(
    record_to: Path | None, replay: str | None, *, record: bool, wait: bool
) -> None:
    """Refuse options that don't go together; raises UsageProblemError."""
    if replay is not None and (record or record_to is not None):
        raise UsageProblemError("What --replay answers can't be recorded again; leave one out.")
    if record_to is not None and not wait:
        raise UsageProblemError(
            "--record-to saves the cassette when the run has ended, which --detach doesn't wait "
            "for.",
            cure="Use --record, and `celeriac cassettes download EXECUTION` later.",
        )


def cassette_id(session: Session, replay: str) -> UUID:
    """Return the id of the cassette that `replay` names; a file is uploaded."""
    found = parse_uuid(replay)
    if found is not None:
        return found
    return session.client.cassettes.upload(readable(Path(replay))).id


def readable(file: Path) -> Path:
    """Return a file that is there; raises UsageProblemError for one that isn't."""
    if not file.is_file():
        raise UsageProblemError(
            f"There is no file {file}.",
            cure="Name a cassette's file or its id; `celeriac cassettes list` shows yours.",
        )
    return file


def save_recording(session: Session, execution: "Execution", file: Path) -> None:
    """Write what the execution has recorded to `file`, over what was there."""
    from celeriac.client import ClientError

    try:
        content = session.client.cassettes.content(execution.id)
    except ClientError as error:
        if error.code != "not_found":
            raise
        session.output.say("Nothing was recorded: the run made no model request.")
        return
    write(file, content)
    session.output.say(f"Recorded in {file}; `--replay {file}` runs it again without the model.")


def write(file: Path, content: str) -> None:
    """Write a cassette's text to a file; raises CommandError."""
    try:
        file.write_text(content, "utf-8")
    except OSError as error:
        raise CommandError(
            f"{file} can't be written: {error.strerror}.", problem="file_not_written"
        ) from error
