"""`celeriac cassettes`, and recording and replay of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.files import Overwrite, refuse_existing
from celeriac.cli.core.ids import CassetteId
from celeriac.cli.core.output import CommandError, UsageProblemError, short, size
from celeriac.kit.ids import parse_uuid

if TYPE_CHECKING:
    from celeriac.wire import Execution

app = typer.Typer(
    name="cassettes", help="Recorded model traffic, to run agents without their models."
)

_AGENT = "What its agent may do"
_STDOUT = "-"

RecordTo = Annotated[
    Path | None,
    typer.Option(
        "--record-to",
        metavar="FILE",
        help="Record its model traffic, and save the cassette in this file.",
        dir_okay=False,
        rich_help_panel=_AGENT,
    ),
]
Replay = Annotated[
    str | None,
    typer.Option(
        "--replay",
        metavar="FILE|ID",
        help="Replay a cassette instead of calling models: a file, or the id of a cassette or of "
        "the execution that recorded it.",
        rich_help_panel=_AGENT,
    ),
]


def check_recording(
    record_to: Path | None, replay: str | None, *, record: bool, wait: bool
) -> None:
    """Raise UsageProblemError for options that exclude each other."""
    if replay is not None and (record or record_to is not None):
        raise UsageProblemError("--replay can't be combined with --record or --record-to.")
    if record_to is not None and not wait:
        raise UsageProblemError(
            "--record-to saves the cassette at the end of the run, but --detach doesn't wait for "
            "it.",
            cure="Use --record, and `celeriac cassettes download EXECUTION` later.",
        )


def cassette_id(context: CommandContext, replay: str) -> UUID:
    """Return the id of the cassette that `replay` names. A file is uploaded first."""
    found = parse_uuid(replay)
    if found is not None:
        return found
    return context.client.cassettes.upload(_existing(Path(replay))).id


def _existing(file: Path) -> Path:
    """Return `file` if it exists, else raise UsageProblemError."""
    if not file.is_file():
        raise UsageProblemError(
            f"There is no file {file}.",
            cure="Name a cassette's file or its id; `celeriac cassettes list` shows yours.",
        )
    return file


def save_recording(context: CommandContext, execution: "Execution", file: Path) -> None:
    """Write the recording of an execution to `file`, replacing an existing one."""
    from celeriac.client import ClientError

    try:
        content = context.client.cassettes.content(execution.id)
    except ClientError as error:
        if error.code != "not_found":
            raise
        context.output.say("Nothing was recorded: the run made no model request.")
        return
    _save(file, content)
    context.output.say(f"Recorded in {file}; `--replay {file}` runs it again without the model.")


def _save(file: Path, content: str) -> None:
    """Write a cassette's text to a file. Raises CommandError."""
    try:
        file.write_text(content, "utf-8")
    except OSError as error:
        raise CommandError(
            f"{file} can't be written: {error.strerror}.", problem="file_not_written"
        ) from error


@api_command(app, "list")
def list_cassettes(context: CommandContext, limit: Limit = 20) -> None:
    """List cassettes, the newest first.

    Examples:
      celeriac run summarise --var text=… --record
      celeriac cassettes list
    """
    context.output.write_list(
        context.client.cassettes.list(),
        ("ID", "NAME", "REQUESTS", "SIZE", "RECORDED BY", "CREATED"),
        lambda each: (
            each.id,
            short(each.name),
            f"{each.interactions}{'' if each.complete else ', cut off'}",
            size(each.size),
            "an execution" if each.execution_id else "uploaded",
            each.created_at,
        ),
        limit=limit,
        cut=("NAME",),
        drop=("RECORDED BY", "SIZE", "REQUESTS"),
    )


@api_command(app)
def show(context: CommandContext, cassette: CassetteId) -> None:
    """Show a cassette: each request with the status of its answer."""
    from celeriac.domain.cassettes import parse

    found = context.client.cassettes.get(cassette)
    recorded_by = f"execution {found.execution_id}" if found.execution_id else "uploaded"
    context.output.write_details(
        found,
        {
            "id": found.id,
            "name": found.name,
            "recorded by": recorded_by,
            "requests": found.interactions,
            "size": size(found.size),
            "complete": "yes" if found.complete else "no: it was stopped at the size limit",
            "created": found.created_at,
        },
    )
    if context.output.as_json:
        return
    context.output.write_list(
        parse(context.client.cassettes.content(cassette)).interactions,
        ("ATTEMPT", "PROVIDER", "REQUEST", "ANSWER"),
        lambda each: (
            each.attempt,
            each.provider,
            f"{each.request.method} {each.request.path}",
            f"{each.response.status}{', broken off' if each.response.broken else ''}",
        ),
    )


@api_command(app)
def download(
    context: CommandContext,
    *,
    cassette: CassetteId,
    file: Annotated[
        Path, typer.Argument(help="Target; - for stdout.", metavar="[FILE]", dir_okay=False)
    ] = Path(_STDOUT),
    overwrite: Overwrite = False,
) -> None:
    """Download a cassette: JSON lines, to keep beside the tests that replay it.

    Examples:
      celeriac cassettes download 0199f3a2-1c5e-7d30-9a64-0b8f6b1d2c11 qualify.jsonl
    """
    content = context.client.cassettes.content(cassette)
    if str(file) == _STDOUT:
        context.output.raw(content.removesuffix("\n"))
        return
    refuse_existing(file, overwrite=overwrite)
    _save(file, content)
    context.output.json({"id": cassette, "written": str(file)})
    context.output.say(f"Written to {file}.")


@api_command(app)
def upload(
    context: CommandContext,
    *,
    file: Annotated[Path, typer.Argument(help="The cassette's file.", metavar="FILE")],
    name: Annotated[
        str | None, typer.Option(help="The name in lists; that of the file if not given.")
    ] = None,
) -> None:
    """Upload a cassette for `celeriac run TASK --replay ID`. The same one is stored only once."""
    stored = context.client.cassettes.upload(_existing(file), name=name)
    context.output.write(stored, str(stored.id))


@api_command(app)
def delete(context: CommandContext, cassette: CassetteId) -> None:
    """Delete a cassette."""
    context.client.cassettes.delete(cassette)
    context.output.json({"id": cassette, "deleted": True})
    context.output.say(f"The cassette {cassette} is deleted.")
