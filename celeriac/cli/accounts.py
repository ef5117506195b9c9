"""`celeriac users`, `keys` and `audit`."""

import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.ids import KeyId, short_id
from celeriac.cli.core.output import CommandError, ExitCode, UsageProblemError
from celeriac.domain.accounts import Role
from celeriac.kit.ids import parse_uuid
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac.wire import User

users_app = typer.Typer(
    name="users", help="Users: create, list and change them; for administrators."
)
keys_app = typer.Typer(name="keys", help="API keys: create, list and revoke them.")
audit_app = typer.Typer(name="audit", help="The audit trail: list its entries and check them.")

_SEAL_LENGTH = 64
_HEAD = re.compile(rf"([0-9]{{1,19}}):([0-9a-f]{{{_SEAL_LENGTH}}})")
_POSITION = re.compile(r"[0-9]{1,19}")
_NO_DIGIT = re.compile(r"[^0-9a-f]")
_MOST_FAULTS = 20

UserName = Annotated[str, typer.Argument(metavar="USER", help="The user's name or id.")]


@api_command(users_app, "list")
def list_users(context: CommandContext, limit: Limit = 50) -> None:
    """List users, the newest first."""
    context.output.write_list(
        context.client.users.list(),
        ("ID", "NAME", "ROLE", "CREATED", "DISABLED"),
        lambda user: (user.id, user.name, user.role, user.created_at, user.disabled_at),
        limit=limit,
        drop=("CREATED", "DISABLED"),
    )


@api_command(users_app, "create")
def create_user(
    context: CommandContext,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique among all users.")],
    role: Annotated[Role, typer.Option(help="The user's rights.")] = Role.OPERATOR,
) -> None:
    """Create a user with a personal workspace.

    `celeriac keys create NAME --user ID` creates a key for them.

    Examples:
      celeriac users create ada --role viewer
    """
    _show(context, context.client.users.create(name, role=role.value))


@api_command(users_app, "change")
def change_user(
    context: CommandContext,
    *,
    user: UserName,
    role: Annotated[Role | None, typer.Option(help="The user's new rights.")] = None,
    disable: Annotated[
        bool | None,
        typer.Option("--disable/--enable", help="Refuse the user's keys, or accept them again."),
    ] = None,
    cancel_executions: Annotated[
        bool,
        typer.Option(
            "--cancel-executions", help="Also cancel their executions that have not ended."
        ),
    ] = False,
) -> None:
    """Change a user's role, or disable or enable them.

    The executions of a disabled user still run, unless --cancel-executions is
    given.

    Examples:
      celeriac users change ada --role admin
      celeriac users change ada --disable --cancel-executions
    """
    if role is None and disable is None and not cancel_executions:
        raise UsageProblemError("Give --role, --disable, --enable or --cancel-executions.")
    changed = context.client.users.change(
        _id_of(context, user),
        role=role.value if role else None,
        disabled=disable,
        cancel_executions=cancel_executions,
    )
    _show(context, changed)


def _id_of(context: CommandContext, user: str) -> UUID:
    """Return the id of a user, given by id or name; the API takes ids only."""
    whole = parse_uuid(user)
    if whole is not None:
        return whole
    for each in context.client.users.list():
        if each.name == user:
            return each.id
    raise CommandError(
        f"There is no user {user}.",
        cure="`celeriac users list` shows them.",
        exit_code=ExitCode.NOT_FOUND,
        problem="not_found",
    )


def _show(context: CommandContext, user: "User") -> None:
    context.output.write_details(
        user,
        {
            "id": user.id,
            "name": user.name,
            "role": user.role,
            "created": user.created_at,
            "disabled": user.disabled_at,
        },
    )


@api_command(keys_app, "list")
def list_keys(context: CommandContext, limit: Limit = 50) -> None:
    """List your keys, the newest first. An administrator sees everybody's."""
    context.output.write_list(
        context.client.keys.list(),
        (
            "ID",
            "NAME",
            "USER",
            "WORKSPACE",
            "ROLE",
            "PREFIX",
            "CREATED",
            "EXPIRES",
            "REVOKED",
            "LAST USED",
        ),
        lambda key: (
            key.id,
            key.name,
            key.user_name,
            key.workspace_name,
            key.role,
            key.prefix,
            key.created_at,
            key.expires_at,
            key.revoked_at,
            key.last_used_at,
        ),
        limit=limit,
        cut=("NAME", "USER", "WORKSPACE"),
        drop=("LAST USED", "CREATED", "PREFIX", "REVOKED", "EXPIRES", "USER", "WORKSPACE"),
    )


@api_command(keys_app, "create")
def create_key(
    context: CommandContext,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.")],
    role: Annotated[Role | None, typer.Option(help="The key's rights; yours if not given.")] = None,
    user: Annotated[
        UUID | None, typer.Option(metavar="ID", help="The user of the key; for administrators.")
    ] = None,
    expires: Annotated[
        datetime | None, typer.Option(help="When it expires, in local time; never if not given.")
    ] = None,
) -> None:
    """Create a key and print it. It can't be shown again.

    It is a key of the workspace that --workspace names, and works in no other.

    Examples:
      celeriac keys create team-ci --workspace research
      celeriac keys create ci --role operator --expires 2027-06-30
      export CELERIAC_API_KEY="$(celeriac keys create laptop)"
    """
    made = context.client.keys.create(
        name,
        role=role.value if role else None,
        user_id=user,
        expires_at=expires.astimezone() if expires else None,
    )
    context.output.write(made, made.token)
    revoking = f"`celeriac keys revoke {short_id(made.id)}` revokes it."
    context.output.say(f"Keep it safe: it can't be shown again. {revoking}")


@api_command(keys_app, "revoke")
def revoke_key(context: CommandContext, key: KeyId) -> None:
    """Revoke a key for ever. Other API processes notice within seconds."""
    context.client.keys.revoke(UUID(key))
    context.output.write({"id": key, "revoked": True}, f"revoked · {key}")


@api_command(audit_app, "list")
def list_entries(
    context: CommandContext,
    *,
    limit: Limit = 20,
    action: Annotated[
        str | None, typer.Option(help="Only this action, as in execution.cancel.")
    ] = None,
    resource: Annotated[str | None, typer.Option(help="Only entries about this id.")] = None,
) -> None:
    """List what you did, the newest first.

    An admin sees what everybody did in the workspace, an administrator what
    everybody did anywhere.

    Examples:
      celeriac audit list
      celeriac audit list --action request.refuse
    """
    context.output.write_list(
        context.client.audit.list(action=action, resource_id=resource),
        ("TIME", "ACTOR", "ACTION", "RESOURCE", "REQUEST"),
        lambda each: (
            each.at,
            each.actor,
            each.action,
            f"{each.resource_type} {each.resource_id}",
            each.request_id or "",
        ),
        limit=limit,
        cut=("ACTOR",),
        drop=("REQUEST", "TIME"),
    )


@api_command(audit_app)
def verify(
    context: CommandContext,
    *,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="POSITION:SEAL", help="The output of an earlier check, which must still hold."
        ),
    ] = None,
) -> None:
    """Check that no entry of the audit trail was changed, removed or inserted.

    Checks every seal against the entries under it. For administrators. Store
    the line that it prints elsewhere: with --expect, a later check also detects
    that the end of the trail was cut off. Exits with 1 if anything is wrong.

    Examples:
      celeriac audit verify
      celeriac audit verify --expect 1031:5f5f…
    """
    expected = _head(expect)
    pages = list(context.client.audit.verify())
    entries, seals = sum(page.entries for page in pages), sum(page.seals for page in pages)
    last, head = pages[-1].last_position, pages[-1].head
    faults = [fault for page in pages for fault in page.faults]
    messages = [
        f"{each.first_position} to {each.last_position}: the seal {each.message}" for each in faults
    ]
    if expected is not None and not _has(context, *expected, last=last):
        messages.append(_mismatch(expected[0], last))
    if context.output.as_json:
        context.output.json(
            {
                "ok": not messages,
                "entries": entries,
                "seals": seals,
                "head": f"{last}:{head}",
                "faults": messages,
            }
        )
    elif not messages:
        context.output.say(
            f"{counted(entries, 'entry', 'entries')} under {counted(seals, 'seal')}: "
            "all as they were written."
        )
        context.output.raw(f"{last}:{head}")
    if messages:
        # a wrong --expect alone may be a typing error
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
    """Return why a text is not a position and a seal."""
    position, colon, seal = expect.partition(":")
    if not colon:
        return "it has no colon between a position and a seal"
    if not _POSITION.fullmatch(position):
        return "the part before the colon is not a number"
    if _NO_DIGIT.search(seal):
        return "the seal has characters other than 0-9 and a-f"
    return f"the seal has {counted(len(seal), 'character')} instead of {_SEAL_LENGTH}"


def _mismatch(position: int, last: int) -> str:
    """Return the message for an expectation that does not match the trail."""
    if position > last:
        return (
            f"--expect does not match: the trail ends at {last}, before {position}. "
            "The end was cut off, or the position is mistyped."
        )
    return (
        f"--expect does not match: the trail has no such seal at {position}. "
        "Entries were removed or changed, or the line is mistyped."
    )


def _has(context: CommandContext, position: int, seal: str, *, last: int) -> bool:
    """Return whether the trail has a seal with this value that ends at `position`."""
    if position == 0:
        return True
    if position > last:
        return False
    from celeriac.client import ClientError

    try:
        page = next(context.client.audit.verify(after=position))
    except ClientError as error:
        if error.code != "invalid_input":
            raise
        return False
    return page.start == seal
