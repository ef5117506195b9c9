"""`celeriac keys`: API keys."""

from datetime import datetime
from itertools import islice
from typing import Annotated
from uuid import UUID

import typer

from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext, open_client
from celeriac.cli.core.output import moment
from celeriac.cli.ids import KeyId, short_id
from celeriac.domain.accounts import Role


def build_app() -> typer.Typer:
    """Return the group `keys`."""
    app = typer.Typer(name="keys", help="API keys: make, list and revoke them.")
    app.command("list")(list_keys)
    app.command()(create)
    app.command()(revoke)
    return app


@open_client
def list_keys(session: CommandContext, limit: Limit = 50) -> None:
    """List your keys, the newest first; an admin sees everybody's."""
    found = list(islice(session.client.keys.list(), limit))
    if session.output.as_json:
        session.output.json(found)
        return
    session.output.table(
        ("ID", "NAME", "USER", "ROLE", "PREFIX", "CREATED", "EXPIRES", "REVOKED", "LAST USED"),
        (
            (
                str(key.id),
                key.name,
                key.user_name,
                key.role.value,
                key.prefix,
                moment(key.created_at),
                moment(key.expires_at),
                moment(key.revoked_at),
                moment(key.last_used_at),
            )
            for key in found
        ),
        cut=("NAME", "USER"),
        drop=("LAST USED", "CREATED", "PREFIX", "REVOKED", "EXPIRES", "USER"),
    )


@open_client
def create(
    session: CommandContext,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for, in your words.")],
    role: Annotated[
        Role | None, typer.Option(help="What it may do; as much as you, if not given.")
    ] = None,
    user: Annotated[
        UUID | None, typer.Option(metavar="ID", help="Whose key it is; admins may name others.")
    ] = None,
    expires: Annotated[
        datetime | None, typer.Option(help="From when on it is useless, in local time; never.")
    ] = None,
) -> None:
    """Make a key and print it, this once: it is stored nowhere.

    Examples:
      celeriac keys create ci --role operator --expires 2027-06-30
      export CELERIAC_API_KEY="$(celeriac keys create laptop)"
    """
    made = session.client.keys.create(
        name,
        role=role.value if role else None,
        user_id=user,
        expires_at=expires.astimezone() if expires else None,
    )
    if session.output.as_json:
        session.output.json(made)
    else:
        session.output.raw(made.token)
        revoking = f"`celeriac keys revoke {short_id(made.id)}` revokes it."
        session.output.say(f"Keep it safe: it can't be shown again. {revoking}")


@open_client
def revoke(
    session: CommandContext,
    key: KeyId,
) -> None:
    """Make a key useless for ever; servers elsewhere notice within seconds."""
    session.client.keys.revoke(UUID(key))
    if session.output.as_json:
        session.output.json({"id": key, "revoked": True})
    else:
        session.output.raw(f"revoked · {key}")
