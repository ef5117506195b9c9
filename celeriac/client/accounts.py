"""Workspaces, API keys, users and the audit trail."""

from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from celeriac import wire
from celeriac.client.transport import Resource, given, path


class Keys(Resource):
    """`client.keys`: API keys."""

    def create(
        self,
        name: str,
        *,
        role: str | None = None,
        user_id: UUID | None = None,
        workspace: str | UUID | None = None,
        expires_at: datetime | None = None,
    ) -> wire.NewApiKey:
        """Create a key of a workspace, by default the client's.

        Only this answer has its `token`.
        """
        body = given(
            name=name, role=role, user_id=user_id, workspace=workspace, expires_at=expires_at
        )
        return self._transport.post(wire.NewApiKey, path("api-keys"), body)

    def list(self) -> Iterator[wire.ApiKey]:
        """Yield your keys, or as an administrator everybody's, the newest first."""
        return self._transport.pages(wire.ApiKey, path("api-keys"))

    def revoke(self, key_id: UUID) -> None:
        """Revoke a key for ever."""
        self._transport.send("DELETE", path("api-keys", key_id))


class Users(Resource):
    """`client.users`."""

    def me(self) -> wire.User:
        """Return the user of the client's key."""
        return self._transport.get(wire.User, path("me"))

    def create(self, name: str, *, role: str = "operator") -> wire.User:
        """Create a user. For administrators."""
        return self._transport.post(wire.User, path("users"), {"name": name, "role": role})

    def list(self) -> Iterator[wire.User]:
        """Yield all users, the newest first. For administrators."""
        return self._transport.pages(wire.User, path("users"))

    def change(
        self,
        user_id: UUID,
        *,
        role: str | None = None,
        disabled: bool | None = None,
        cancel_executions: bool = False,
    ) -> wire.User:
        """Change a user's role, or disable or enable them. For administrators.

        `cancel_executions` also cancels all executions of theirs that have not ended.
        """
        body = given(role=role, disabled=disabled, cancel_executions=cancel_executions or None)
        return self._transport.patch(wire.User, path("users", user_id), body)


class Workspaces(Resource):
    """`client.workspaces`: workspaces and their members."""

    def create(self, name: str) -> wire.Workspace:
        """Create a workspace without members. For administrators."""
        return self._transport.post(wire.Workspace, path("workspaces"), {"name": name})

    def list(self) -> Iterator[wire.Workspace]:
        """Yield your workspaces, or as an administrator all, the newest first."""
        return self._transport.pages(wire.Workspace, path("workspaces"))

    def get(self, workspace: str | UUID) -> wire.Workspace:
        """Return a workspace by name or id."""
        return self._transport.get(wire.Workspace, path("workspaces", workspace))

    def members(self, workspace: str | UUID) -> Iterator[wire.Member]:
        """Yield the members of a workspace."""
        return self._transport.pages(wire.Member, path("workspaces", workspace, "members"))

    def add_member(
        self, workspace: str | UUID, user: str | UUID, *, role: str = "operator"
    ) -> wire.Member:
        """Make a user, by name or id, a member. For administrators."""
        body = given(user=user, role=role)
        return self._transport.post(wire.Member, path("workspaces", workspace, "members"), body)

    def change_member(
        self, workspace: str | UUID, user_id: UUID, *, role: str, without_admin: bool = False
    ) -> wire.Member:
        """Change a member's role. For admins of the workspace.

        Administrators may leave the workspace `without_admin`.
        """
        where = path("workspaces", workspace, "members", user_id)
        body = given(role=role, without_admin=without_admin or None)
        return self._transport.patch(wire.Member, where, body)

    def remove_member(
        self, workspace: str | UUID, user_id: UUID, *, without_admin: bool = False
    ) -> None:
        """Remove a member and revoke their keys in the workspace.

        Administrators may leave the workspace `without_admin`.
        """
        where = path("workspaces", workspace, "members", user_id)
        self._transport.send("DELETE", where, params=given(without_admin=without_admin or None))

    def delete(self, workspace: str | UUID, *, cancel: bool = False) -> None:
        """Delete a workspace with its agents, tasks, budgets, cassettes and keys.

        For administrators. Refused while executions have not ended, unless `cancel` is true.
        """
        self._transport.send(
            "DELETE", path("workspaces", workspace), params=given(cancel=cancel or None)
        )

    def invite(
        self,
        workspace: str | UUID,
        name: str,
        *,
        role: str = "operator",
        expires_hours: int | None = None,
    ) -> wire.NewInvitation:
        """Invite a person, who gets the `token`. For admins of the workspace.

        Only this answer has the token. It works once; the default is a week.
        """
        body = given(name=name, role=role, expires_hours=expires_hours)
        where = path("workspaces", workspace, "invitations")
        return self._transport.post(wire.NewInvitation, where, body)

    def invitations(self, workspace: str | UUID) -> Iterator[wire.Invitation]:
        """Yield the invitations to a workspace, the newest first."""
        return self._transport.pages(wire.Invitation, path("workspaces", workspace, "invitations"))

    def revoke_invitation(self, workspace: str | UUID, invitation_id: UUID) -> None:
        """Revoke an invitation that was not accepted."""
        where = path("workspaces", workspace, "invitations", invitation_id)
        self._transport.send("DELETE", where)

    def accept_invitation(self, token: str) -> wire.AcceptedInvitation:
        """Become a member of a workspace. Only this answer has the token of the `key`.

        If the user of the invitation exists, the client needs a key of theirs, otherwise none.
        """
        body = {"token": token}
        return self._transport.post(wire.AcceptedInvitation, path("invitations", "accept"), body)


class Audit(Resource):
    """`client.audit`."""

    def list(
        self,
        *,
        action: str | None = None,
        resource_type: str | None = None,
        resource_id: str | None = None,
    ) -> Iterator[wire.AuditEntry]:
        """Yield your own entries, or as an admin everybody's in the workspace, the newest first."""
        wanted = {"action": action, "resource_type": resource_type, "resource_id": resource_id}
        return self._transport.pages(wire.AuditEntry, path("audit-logs"), wanted)

    def verify(self, *, after: int = 0) -> Iterator[wire.AuditVerification]:
        """Check the trail and yield the result of each page. For administrators.

        Begins after the position `after`: 0, or the `last_position` of an earlier check.
        """
        while True:
            found = self._transport.get(
                wire.AuditVerification, path("audit-logs", "verification"), {"after": after}
            )
            yield found
            if found.complete:
                return
            after = found.last_position
