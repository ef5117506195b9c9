"""`celeriac workspaces`: workspaces and their members."""

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from celeriac.cli.core.arguments import Limit
from celeriac.cli.core.context import CommandContext, api_command
from celeriac.cli.core.ids import short_id
from celeriac.cli.core.output import CommandError, ExitCode, UsageProblemError, moment
from celeriac.domain.accounts import Role
from celeriac.kit.ids import parse_uuid
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac.wire import Member, Workspace

app = typer.Typer(
    name="workspaces", help="Workspaces: whose members share tasks, executions and budgets."
)

WorkspaceName = Annotated[str, typer.Argument(metavar="NAME", help="The workspace's name or id.")]
WithoutAdmin = Annotated[
    bool,
    typer.Option("--without-admin", help="Also if no admin is left in it; for administrators."),
]
MemberName = Annotated[str, typer.Argument(metavar="USER", help="The user's name or id.")]


@api_command(app, "list")
def list_workspaces(context: CommandContext, limit: Limit = 50) -> None:
    """List your workspaces, the newest first. An administrator sees all.

    `--workspace NAME` runs any command in one of them.
    """
    context.output.write_list(
        context.client.workspaces.list(),
        ("ID", "NAME", "KIND", "CREATED"),
        lambda each: (each.id, each.name, _kind(each), each.created_at),
        limit=limit,
        drop=("CREATED",),
    )


@api_command(app, "create")
def create_workspace(
    context: CommandContext,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Unique among all workspaces and users.")
    ],
) -> None:
    """Create a workspace, which has no members yet; for administrators.

    Examples:
      celeriac workspaces create research
      celeriac workspaces add research ada --role admin
    """
    made = context.client.workspaces.create(name)
    context.output.write_details(
        made, {"id": made.id, "name": made.name, "created": made.created_at}
    )


@api_command(app, "members")
def list_members(context: CommandContext, workspace: WorkspaceName, limit: Limit = 50) -> None:
    """List the members of a workspace."""
    context.output.write_list(
        context.client.workspaces.members(workspace),
        ("ID", "NAME", "ROLE", "SINCE"),
        lambda each: (each.id, each.name, each.role, each.created_at),
        limit=limit,
        drop=("SINCE",),
    )


@api_command(app, "delete")
def delete_workspace(
    context: CommandContext,
    workspace: WorkspaceName,
    *,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Cancel its executions that have not ended.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Delete a workspace with its agents, tasks, budgets, cassettes and keys.

    For administrators. Its executions can't be read any more, and its name is
    free. Refused while executions have not ended, unless --cancel is given.

    Examples:
      celeriac workspaces delete research --cancel
    """
    found = context.client.workspaces.get(workspace)
    if not yes:
        if not context.output.can_ask:
            raise UsageProblemError(
                f"Deleting the workspace {found.name} can't be undone; nothing was changed.",
                cure="Add --yes to delete it.",
            )
        members = counted(sum(1 for _ in context.client.workspaces.members(found.id)), "member")
        question = f"Delete the workspace {found.name}, with {members}? This can't be undone."
        if not typer.confirm(question, err=True):
            raise typer.Abort
    context.client.workspaces.delete(found.id, cancel=cancel)
    context.output.write(
        {"id": str(found.id), "deleted": True}, f"deleted · workspace {found.name}"
    )


@api_command(app, "add")
def add_member(
    context: CommandContext,
    workspace: WorkspaceName,
    user: MemberName,
    role: Annotated[Role, typer.Option(help="What the member may do.")] = Role.OPERATOR,
) -> None:
    """Make a user a member of a workspace; for administrators.

    `celeriac workspaces invite` also invites people who are no users yet.

    Examples:
      celeriac workspaces add research ada --role admin
    """
    _show(context, context.client.workspaces.add_member(workspace, user, role=role.value))


@api_command(app, "invite")
def invite(
    context: CommandContext,
    workspace: WorkspaceName,
    name: Annotated[
        str, typer.Argument(metavar="USER", help="The user's name; a new user is made.")
    ],
    role: Annotated[Role, typer.Option(help="What the member may do.")] = Role.OPERATOR,
    hours: Annotated[int, typer.Option(min=1, max=720, help="Hours until it expires.")] = 168,
) -> None:
    """Invite a person to a workspace, and print a token for them; for admins of it.

    They run `celeriac invitations accept TOKEN`. The token works once and can't
    be shown again.

    Examples:
      celeriac workspaces invite research ada --role operator
    """
    made = context.client.workspaces.invite(workspace, name, role=role.value, expires_hours=hours)
    context.output.write(made, made.token)
    context.output.say(
        f"{name} becomes a member with `celeriac invitations accept TOKEN`, until "
        f"{moment(made.expires_at)}. It can't be shown again; `celeriac invitations revoke "
        f"{workspace} {short_id(made.id)}` revokes it."
    )


@api_command(app, "change")
def change_member(
    context: CommandContext,
    workspace: WorkspaceName,
    user: MemberName,
    role: Annotated[Role, typer.Option(help="What the member may do from now on.")],
    without_admin: WithoutAdmin = False,
) -> None:
    """Change a member's role; for admins of the workspace.

    Examples:
      celeriac workspaces change research ada --role viewer
    """
    member = _id_of(context, workspace, user)
    changed = context.client.workspaces.change_member(
        workspace, member, role=role.value, without_admin=without_admin
    )
    _show(context, changed)


@api_command(app, "remove")
def remove_member(
    context: CommandContext,
    workspace: WorkspaceName,
    user: MemberName,
    *,
    without_admin: WithoutAdmin = False,
) -> None:
    """Remove a member and revoke their keys in the workspace, or leave it yourself.

    What the member made stays.
    """
    member = _id_of(context, workspace, user)
    context.client.workspaces.remove_member(workspace, member, without_admin=without_admin)
    context.output.write({"id": str(member), "removed": True}, f"removed · {user}")


def _id_of(context: CommandContext, workspace: str, user: str) -> UUID:
    """Return the id of a member, given by id or name; the API takes ids only."""
    whole = parse_uuid(user)
    if whole is not None:
        return whole
    for each in context.client.workspaces.members(workspace):
        if each.name == user:
            return each.id
    raise CommandError(
        f"{user} is no member of {workspace}.",
        cure=f"`celeriac workspaces members {workspace}` shows them.",
        exit_code=ExitCode.NOT_FOUND,
        problem="not_found",
    )


def _kind(workspace: "Workspace") -> str:
    return "shared" if workspace.personal_of is None else "personal"


def _show(context: CommandContext, member: "Member") -> None:
    context.output.write_details(
        member,
        {"id": member.id, "name": member.name, "role": member.role, "since": member.created_at},
    )
