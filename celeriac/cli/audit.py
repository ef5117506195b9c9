"""`celeriac audit`: who did what, and whether the record of it was changed."""

import re
from itertools import islice
from typing import Annotated

import typer

from celeriac.cli.exits import CommandError, UsageProblemError
from celeriac.cli.formatting import moment
from celeriac.cli.options import Limit
from celeriac.cli.session import Session, connected

_HEAD = re.compile(r"([0-9]{1,19}):([0-9a-f]{64})")
_MOST_FAULTS = 20


def build_app() -> typer.Typer:
    """Return the group `audit`."""
    app = typer.Typer(name="audit", help="The audit trail: list its entries and check them.")
    app.command("list")(list_entries)
    app.command()(verify)
    return app


@connected
def list_entries(
    session: Session,
    *,
    limit: Limit = 20,
    action: Annotated[
        str | None, typer.Option(help="Only this action, as in execution.cancel.")
    ] = None,
    resource: Annotated[str | None, typer.Option(help="Only what is about this id.")] = None,
) -> None:
    """List what you did, the newest first; an admin sees what everybody did.

    Examples:
      celeriac audit list
      celeriac audit list --action request.refuse
    """
    found = list(islice(session.client.audit.list(action=action, resource_id=resource), limit))
    if session.output.as_json:
        session.output.json(found)
        return
    session.output.table(
        ("TIME", "ACTOR", "ACTION", "RESOURCE", "REQUEST"),
        (
            (
                moment(each.at),
                each.actor,
                each.action,
                f"{each.resource_type} {each.resource_id}",
                each.request_id or "",
            )
            for each in found
        ),
        cut=("ACTOR",),
        drop=("REQUEST", "TIME"),
    )


@connected
def verify(
    session: Session,
    *,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="POSITION:SEAL", help="What an earlier check printed; the trail must have it."
        ),
    ] = None,
) -> None:
    """Check that no entry of the audit trail was changed, removed or inserted.

    Checks every seal against the entries under it. Needs an admin's key. Keep
    the line that it prints somewhere else: with --expect, a later check also
    finds out whether the end of the trail was cut off. Exits with 1 if
    anything is wrong.

    Examples:
      celeriac audit verify
      celeriac audit verify --expect 1031:5f5f…
    """
    expected = _head(expect)
    entries = seals = last = 0
    head = ""
    faults = []
    for page in session.client.audit.verify():
        entries += page.entries
        seals += page.seals
        last, head = page.last_position, page.head
        faults += page.faults
    messages = [f"{each.first_position} to {each.last_position}: the seal {each.message}"
                for each in faults]  # fmt: skip
    if expected is not None and not _has(session, *expected, last=last):
        messages.append(f"There is no seal {expect}: entries were removed or changed.")
    if session.output.as_json:
        session.output.json(
            {
                "ok": not messages,
                "entries": entries,
                "seals": seals,
                "head": f"{last}:{head}",
                "faults": messages,
            }
        )
    elif not messages:
        session.output.say(f"{entries} entries under {seals} seals are as they were written.")
        session.output.raw(f"{last}:{head}")
    if messages:
        more = len(messages) - _MOST_FAULTS
        raise CommandError(
            "\n".join(["The audit trail was changed.", *messages[:_MOST_FAULTS]])
            + (f"\nand {more} more" if more > 0 else ""),
            cure="Compare the entries between these positions with a backup.",
            problem="audit_trail_changed",
        )


def _head(expect: str | None) -> tuple[int, str] | None:
    if expect is None:
        return None
    match = _HEAD.fullmatch(expect)
    if match is None:
        raise UsageProblemError("--expect must be a line that `celeriac audit verify` printed.")
    return int(match[1]), match[2]


def _has(session: Session, position: int, seal: str, *, last: int) -> bool:
    """Whether the trail has a seal with this value that ends at `position`."""
    if position == 0:
        return True
    if position > last:
        return False
    from celeriac.client import ClientError

    try:
        page = next(session.client.audit.verify(after=position))
    except ClientError as error:
        if error.code != "invalid_input":
            raise
        return False
    return page.start == seal
