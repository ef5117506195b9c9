"""`celeriac users`: who may use the server."""

from itertools import islice
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.output import CommandError, ExitCode, UsageProblemError, moment
from celeriac.domain.accounts import Role
from celeriac.kit.ids import parse_uuid

if TYPE_CHECKING:
    from celeriac.wire import User

UserName = Annotated[str, typer.Argument(metavar="USER", help="The user's name or id.")]


def build_app() -> typer.Typer:
    """Return the group `users`."""
    app = typer.Typer(name="users", help="Users: make, list and change them; for admins.")
    app.command("list")(list_users)
    for command in (create, change):
        app.command()(command)
    return app


@open_client
def list_users(session: CommandContext, limit: Limit = 50) -> None:
    """List users, the newest first."""
    found = list(islice(session.client.users.list(), limit))
    if session.output.as_json:
        session.output.json(found)
        return
    session.output.table(
        ("ID", "NAME", "ROLE", "CREATED", "DISABLED"),
        (
            (
                str(user.id),
                user.name,
                user.role.value,
                moment(user.created_at),
                moment(user.disabled_at),
            )
            for user in found
        ),
        drop=("CREATED", "DISABLED"),
    )


@open_client
def create(
    session: CommandContext,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique among all users.")],
    role: Annotated[Role, typer.Option(help="What they may do.")] = Role.OPERATOR,
) -> None:
    """Make a user. `celeriac keys create NAME --user ID` makes them an API key.

    Examples:
      celeriac users create ada --role viewer
    """
    _show(session, session.client.users.create(name, role=role.value))


@open_client
def change(
    session: CommandContext,
    *,
    user: UserName,
    role: Annotated[Role | None, typer.Option(help="What they may do from now on.")] = None,
    disable: Annotated[
        bool | None,
        typer.Option(
            "--disable/--enable", help="Refuse their keys from now on, or take them again."
        ),
    ] = None,
    cancel_executions: Annotated[
        bool,
        typer.Option(
            "--cancel-executions", help="Also cancel their executions that have not ended."
        ),
    ] = False,
) -> None:
    """Change a user's role, or disable or enable them.

    What a disabled user has submitted is still run, unless --cancel-executions is given.

    Examples:
      celeriac users change ada --role admin
      celeriac users change ada --disable --cancel-executions
    """
    if role is None and disable is None and not cancel_executions:
        raise UsageProblemError("Give --role, --disable, --enable or --cancel-executions.")
    changed = session.client.users.change(
        _id_of(session, user),
        role=role.value if role else None,
        disabled=disable,
        cancel_executions=cancel_executions,
    )
    _show(session, changed)


def _id_of(session: CommandContext, user: str) -> UUID:
    """Return the id of a user by id or name: the server knows users by their ids."""
    whole = parse_uuid(user)
    if whole is not None:
        return whole
    for each in session.client.users.list():
        if each.name == user:
            return each.id
    raise CommandError(
        f"There is no user {user}.",
        cure="`celeriac users list` shows them.",
        exit_code=ExitCode.NOT_FOUND,
        problem="not_found",
    )


def _show(session: CommandContext, user: "User") -> None:
    if session.output.as_json:
        session.output.json(user)
        return
    session.output.fields(
        {
            "id": str(user.id),
            "name": user.name,
            "role": user.role.value,
            "created": moment(user.created_at),
            "disabled": moment(user.disabled_at),
        }
    )
