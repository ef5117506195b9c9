"""`celeriac cassettes`: recorded model traffic."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.exits import CommandError
from celeriac.cli.files import Overwrite
from celeriac.cli.formatting import moment, short, size
from celeriac.cli.ids import CassetteId
from celeriac.cli.options import Limit
from celeriac.cli.session import Session, connected
from celeriac.cli.taping import readable, write

if TYPE_CHECKING:
    from celeriac import wire

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


@connected
def list_cassettes(session: Session, limit: Limit = 20) -> None:
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


@connected
def show(session: Session, cassette: CassetteId) -> None:
    """Show what a cassette holds: each request with the status of its answer."""
    from celeriac.domain.cassette import parse

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


@connected
def download(
    session: Session,
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


@connected
def upload(
    session: Session,
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


@connected
def delete(session: Session, cassette: CassetteId) -> None:
    """Delete a cassette."""
    session.client.cassettes.delete(cassette)
    if session.output.as_json:
        session.output.json({"id": cassette, "deleted": True})
    else:
        session.output.say(f"The cassette {cassette} is deleted.")


def _show(session: Session, cassette: "wire.Cassette") -> None:
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
