"""`celeriac invitations`: list, revoke and accept invitations to workspaces."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from celeriac.cli.core.arguments import ApiKey, ApiUrl, Json, Limit, ServerHome
from celeriac.cli.core.context import CommandContext, api_command, server_errors
from celeriac.cli.core.output import CommandError, ExitCode, Output
from celeriac.cli.core.server import find_address, find_server
from celeriac.cli.workspaces import WorkspaceName

if TYPE_CHECKING:
    from celeriac import wire
    from celeriac.client import Client

app = typer.Typer(name="invitations", help="Invitations to workspaces: list, revoke, accept them.")


@api_command(app, "list")
def list_invitations(context: CommandContext, workspace: WorkspaceName, limit: Limit = 50) -> None:
    """List the invitations to a workspace, the newest first; for admins of it."""
    context.output.write_list(
        context.client.workspaces.invitations(workspace),
        ("ID", "NAME", "ROLE", "STATUS", "CREATED", "EXPIRES"),
        lambda each: (
            each.id,
            each.name,
            each.role,
            each.status,
            each.created_at,
            each.expires_at,
        ),
        limit=limit,
        cut=("NAME",),
        drop=("CREATED", "EXPIRES"),
    )


@api_command(app, "revoke")
def revoke(
    context: CommandContext,
    workspace: WorkspaceName,
    invitation: Annotated[
        str, typer.Argument(metavar="ID", help="The invitation's id, or its beginning or end.")
    ],
) -> None:
    """Revoke an invitation that was not accepted; for admins of the workspace."""
    found = _one(context, workspace, invitation)
    context.client.workspaces.revoke_invitation(workspace, found.id)
    context.output.write({"id": str(found.id), "revoked": True}, f"revoked · {found.name}")


def _one(context: CommandContext, workspace: str, text: str) -> "wire.Invitation":
    wanted = text.lower().replace("-", "")
    found = [
        each
        for each in context.client.workspaces.invitations(workspace)
        if each.id.hex.startswith(wanted) or each.id.hex.endswith(wanted)
    ]
    if len(found) == 1:
        return found[0]
    several = "Several invitations have" if found else "No invitation has"
    raise CommandError(
        f"{several} the id {text}.",
        cure=f"`celeriac invitations list {workspace}` shows them.",
        exit_code=ExitCode.NOT_FOUND,
        problem="not_found",
    )


@app.command("accept")
def accept(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="What `invite` has printed.")],
    as_json: Json = False,
    api_url: ApiUrl = None,
    api_key: ApiKey = None,
    home: ServerHome = None,
) -> None:
    """Accept an invitation to a workspace, and print a key.

    A user who does not exist yet is made and needs no key. Otherwise it needs a
    key of the user's personal workspace, in CELERIAC_API_KEY. The token works
    once, and the printed key can't be shown again.

    Examples:
      export CELERIAC_API_KEY="$(celeriac invitations accept celinv_…)"
    """
    from celeriac.client import ClientError

    output = Output(as_json=as_json)
    with closing(_client(home, api_url, api_key)) as client:
        try:
            made = client.workspaces.accept_invitation(token)
        except ClientError as error:
            raise server_errors(error) from error
    output.write(made, made.key.token)
    where = made.key.workspace_name
    output.say(
        f"{made.user.name} is {made.member.role} now. This key of the workspace {where} can't be "
        "shown again. Keep it in CELERIAC_API_KEY."
    )


def _client(home: Path | None, api_url: str | None, api_key: str | None) -> "Client":
    """Return a client, which may have no key."""
    from celeriac.client import Client

    try:
        server = find_server(home, api_url, api_key)
    except CommandError as error:
        if error.exit_code is not ExitCode.DENIED:
            raise
        return Client(find_address(home, api_url), api_key=None)
    return Client(server.url, api_key=server.api_key)
