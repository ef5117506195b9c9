"""`celeriac audit`: who did what, and whether the record of it was changed."""

import re
from itertools import islice
from typing import Annotated

import typer

from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.output import CommandError, UsageProblemError, moment
from celeriac.kit.words import counted

_SEAL_LENGTH = 64
_HEAD = re.compile(rf"([0-9]{{1,19}}):([0-9a-f]{{{_SEAL_LENGTH}}})")
_POSITION = re.compile(r"[0-9]{1,19}")
_NO_DIGIT = re.compile(r"[^0-9a-f]")
_MOST_FAULTS = 20


def build_app() -> typer.Typer:
    """Return the group `audit`."""
    app = typer.Typer(name="audit", help="The audit trail: list its entries and check them.")
    app.command("list")(list_entries)
    app.command()(verify)
    return app


@open_client
def list_entries(
    session: CommandContext,
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


@open_client
def verify(
    session: CommandContext,
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
        messages.append(_mismatch(expected[0], last))
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
        session.output.say(
            f"{counted(entries, 'entry', 'entries')} under {counted(seals, 'seal')}: "
            "all as they were written."
        )
        session.output.raw(f"{last}:{head}")
    if messages:
        # an expectation alone may be mistyped: it accuses nobody
        headline = (
            "The audit trail was changed."
            if faults
            else "The audit trail is not what was expected."
        )
        more = len(messages) - _MOST_FAULTS
        raise CommandError(
            "\n".join([headline, *messages[:_MOST_FAULTS]])
            + (f"\nand {more} more" if more > 0 else ""),
            cure="Compare the entries between these positions with a backup.",
            problem="audit_trail_changed",
        )


def _head(expect: str | None) -> tuple[int, str] | None:
    if expect is None:
        return None
    match = _HEAD.fullmatch(expect)
    if match is None:
        raise UsageProblemError(
            f"--expect is malformed: {_malformed(expect)}.",
            cure="Give the whole line that `celeriac audit verify` printed: POSITION:SEAL.",
        )
    return int(match[1]), match[2]


def _malformed(expect: str) -> str:
    """Say what keeps a text from being a position and a seal."""
    position, colon, seal = expect.partition(":")
    if not colon:
        return "it has no colon between a position and a seal"
    if not _POSITION.fullmatch(position):
        return "what is before the colon is no number"
    if _NO_DIGIT.search(seal):
        return "the seal has characters other than 0-9 and a-f"
    return f"the seal has {counted(len(seal), 'character')} instead of {_SEAL_LENGTH}"


def _mismatch(position: int, last: int) -> str:
    """Say that a well-formed expectation does not match the trail."""
    if position > last:
        return (
            f"--expect does not match: the trail ends at {last}, before {position}. "
            "The end was cut off, or the position is mistyped."
        )
    return (
        f"--expect does not match: the trail has no such seal at {position}. "
        "Entries were removed or changed, or the line is mistyped."
    )


def _has(session: CommandContext, position: int, seal: str, *, last: int) -> bool:
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
