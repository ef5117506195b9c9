"""`celeriac cassettes`, and recording of a run."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.output import CommandError, UsageProblemError, moment, short, size
from celeriac.cli.executions import Overwrite
from celeriac.cli.ids import CassetteId
from celeriac.kit.ids import parse_uuid

if TYPE_CHECKING:
    from celeriac import wire
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


def cassette_id(session: CommandContext, replay: str) -> UUID:
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


def save_recording(session: CommandContext, execution: "Execution", file: Path) -> None:
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


_SHORT = 60
_STDOUT = "-"


def build_app() -> typer.Typer:
    """Return the group `cassettes`."""
    app = typer.Typer(
        name="cassettes", help="Recorded model traffic, to run agents without their models."
    )
    app.command("list")(list_cassettes)
    for command in (show, download, upload, delete):
        app.command()(command)
    return app


@open_client
def list_cassettes(session: CommandContext, limit: Limit = 20) -> None:
    """List cassettes, the newest first.

    Examples:
      celeriac run summarise --var text=… --record
      celeriac cassettes list
    """
    found = list(islice(session.client.cassettes.list(), limit))
    if session.output.as_json:
        session.output.json(found)
        return
    session.output.table(
        ("ID", "NAME", "REQUESTS", "SIZE", "RECORDED BY", "CREATED"),
        (
            (
                str(each.id),
                short(each.name, _SHORT),
                str(each.interactions) + ("" if each.complete else ", cut off"),
                size(each.size),
                "an execution" if each.execution_id else "uploaded",
                moment(each.created_at),
            )
            for each in found
        ),
        cut=("NAME",),
        drop=("RECORDED BY", "SIZE", "REQUESTS"),
    )


@open_client
def show(session: CommandContext, cassette: CassetteId) -> None:
    """Show what a cassette holds: each request with the status of its answer."""
    from celeriac.domain.cassettes import parse

    found = session.client.cassettes.get(cassette)
    if session.output.as_json:
        session.output.json(found)
        return
    _show(session, found)
    recorded = parse(session.client.cassettes.content(cassette)).interactions
    session.output.table(
        ("ATTEMPT", "PROVIDER", "REQUEST", "ANSWER"),
        (
            (
                str(each.attempt),
                each.provider,
                f"{each.request.method} {each.request.path}",
                f"{each.response.status}{', broken off' if each.response.broken else ''}",
            )
            for each in recorded
        ),
    )


@open_client
def download(
    session: CommandContext,
    *,
    cassette: CassetteId,
    file: Annotated[
        Path, typer.Argument(help="Where it goes; - for stdout.", metavar="[FILE]", dir_okay=False)
    ] = Path(_STDOUT),
    overwrite: Overwrite = False,
) -> None:
    """Download a cassette: JSON lines, to keep beside the tests that replay it.

    Examples:
      celeriac cassettes download 0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11 qualify.jsonl
    """
    content = session.client.cassettes.content(cassette)
    if str(file) == _STDOUT:
        session.output.raw(content.removesuffix("\n"))
        return
    if file.exists() and not overwrite:
        raise CommandError(
            f"{file} is there already; nothing was written.",
            cure="--overwrite replaces it.",
            problem="file_exists",
        )
    write(file, content)
    if session.output.as_json:
        session.output.json({"id": cassette, "written": str(file)})
    else:
        session.output.say(f"Written to {file}.")


@open_client
def upload(
    session: CommandContext,
    *,
    file: Annotated[Path, typer.Argument(help="The cassette's file.", metavar="FILE")],
    name: Annotated[
        str | None, typer.Option(help="What to list it under; the file's name.")
    ] = None,
) -> None:
    """Upload a cassette, for `celeriac run TASK --replay ID`; the same one only once."""
    stored = session.client.cassettes.upload(readable(file), name=name)
    if session.output.as_json:
        session.output.json(stored)
    else:
        session.output.raw(str(stored.id))


@open_client
def delete(session: CommandContext, cassette: CassetteId) -> None:
    """Delete a cassette."""
    session.client.cassettes.delete(cassette)
    if session.output.as_json:
        session.output.json({"id": cassette, "deleted": True})
    else:
        session.output.say(f"The cassette {cassette} is deleted.")


def _show(session: CommandContext, cassette: "wire.Cassette") -> None:
    session.output.fields(
        {
            "id": str(cassette.id),
            "name": cassette.name,
            "recorded by": f"execution {cassette.execution_id}"
            if cassette.execution_id
            else "uploaded",
            "requests": str(cassette.interactions),
            "size": size(cassette.size),
            "complete": "yes" if cassette.complete else "no: it was stopped at the size limit",
            "created": moment(cassette.created_at),
        }
    )
