"""Invitations to workspaces: one-time tokens that make a member, and a user if there is none."""

import hmac
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import structlog

from celeriac.db import accounts, audit, invitations, workspaces
from celeriac.db.engine import Connection, Database
from celeriac.domain.accounts import Actor, Invitation, InvitationStatus, Member, Role, User
from celeriac.domain.errors import (
    ConflictError,
    ForbiddenError,
    InvitationInvalidError,
    NameTakenError,
    UnauthenticatedError,
)
from celeriac.domain.paging import Page
from celeriac.kit.json_types import JsonObject, JsonValue
from celeriac.kit.tokens import key_hash, new_token, prefix_of
from celeriac.services.keys import NewKey, add_key
from celeriac.services.reading import present, read_page
from celeriac.services.workspaces import managed, shared

logger = structlog.get_logger(__name__)

_SCHEME = "celinv"


@dataclass(frozen=True, slots=True)
class NewInvitation:
    """A new invitation; `token` is shown once and stored nowhere."""

    invitation: Invitation
    token: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """What accepting an invitation made; `key.token` is shown once."""

    user: User
    created: bool
    """Whether the user was made."""
    member: Member
    key: NewKey


class Invitations:
    """Invitations to workspaces. Safe to share between threads."""

    def __init__(self, database: Database, secret_key: str) -> None:
        self._database = database
        self._secret_key = secret_key

    def create(
        self, actor: Actor, reference: str, *, name: str, role: Role, seconds: float
    ) -> NewInvitation:
        """Invite the user `name`, who may not exist yet, to a workspace, for `seconds`.

        Raises ForbiddenError, NotFoundError, NameTakenError for the name of a workspace, and
        ConflictError for a personal workspace or a member.
        """
        prefix, token = new_token(_SCHEME)
        with self._database.transaction() as connection:
            workspace = shared(managed(connection, actor, reference))
            user = accounts.user_named(connection, name)
            if user is None and workspaces.find_one(connection, name) is not None:
                raise NameTakenError(
                    f"{name!r} is the name of a workspace, so no user can have it; choose another.",
                    field="name",
                )
            if user is not None:
                _refuse_member(connection, workspace.id, user)
            invitation_id = invitations.add(
                connection,
                workspace_id=workspace.id,
                owner_id=actor.user_id,
                key_id=actor.key_id,
                name=name,
                role=role,
                prefix=prefix,
                digest=key_hash(self._secret_key, token),
                seconds=seconds,
            )
            made = _get(connection, workspace.id, invitation_id)
            expires = made.expires_at.isoformat()
            _record(connection, actor, "create", made, name=name, role=role, expires_at=expires)
        logger.info("invitation.created", invitation_id=made.id, workspace_id=workspace.id)
        return NewInvitation(made, token)

    def find(
        self, actor: Actor, reference: str, *, cursor: str | None = None, limit: int = 50
    ) -> Page[Invitation]:
        """Return a page of the invitations to a workspace, the newest first.

        Raises ForbiddenError, NotFoundError, CursorInvalidError.
        """
        with self._database.autocommit() as connection:
            workspace = managed(connection, actor, reference)
        find = partial(_find, workspace_id=workspace.id)
        return read_page(self._database, "invitations", cursor, limit, find)

    def revoke(self, actor: Actor, reference: str, invitation_id: UUID) -> None:
        """Revoke an invitation; again, it changes nothing.

        Raises ForbiddenError, NotFoundError, and ConflictError if it was accepted.
        """
        with self._database.transaction() as connection:
            workspace = managed(connection, actor, reference)
            found = _get(connection, workspace.id, invitation_id, lock=True)
            if found.status is InvitationStatus.ACCEPTED:
                raise ConflictError(
                    f"{found.name!r} has accepted the invitation: remove the member instead."
                )
            if found.revoked_at is None:
                invitations.revoke(connection, invitation_id)
                _record(connection, actor, "revoke", found)
        logger.info("invitation.revoked", invitation_id=invitation_id)

    def accept(self, token: str, actor: Actor | None, *, request_id: str | None) -> Accepted:
        """Make the member that an invitation names, with a key.

        A user who does not exist is made, as an operator, and gets a key of their personal
        workspace. A user who exists must be the actor; they get a key of the workspace. Raises
        InvitationInvalidError, the same for every reason; and for a good token, with nothing
        changed, UnauthenticatedError or ForbiddenError if it is another user's, NameTakenError, and
        ConflictError for a member.
        """
        with self._database.transaction() as connection:
            found = self._usable(connection, token)
            user = accounts.user_named(connection, found.name)
            created = user is None
            if user is None:
                user = _new_user(connection, found)
                by = _owner(user, request_id)
                details: JsonObject = {"role": user.role.value, "invitation_id": str(found.id)}
                audit.record(connection, by, "user.create", [user.id], details=details)
                of, role = user.workspace_id, user.role
            else:
                by = _permitted(actor, user, found)
                _refuse_member(connection, found.workspace_id, user)
                of, role = found.workspace_id, found.role.limited_to(by.limit)
            workspaces.add_member(connection, found.workspace_id, user.id, found.role)
            invitations.mark_accepted(connection, found.id)
            _record(connection, by, "accept", found, user_id=str(user.id), role=found.role.value)
            key = add_key(
                connection,
                self._secret_key,
                by,
                user,
                of,
                name="invitation",
                role=role,
                expires_at=by.key_expires_at,
            )
            member = present(
                workspaces.member(connection, found.workspace_id, user.id), "member", user.id
            )
        logger.info("invitation.accepted", invitation_id=found.id, member_id=user.id)
        return Accepted(user, created, member, key)

    def _usable(self, connection: Connection, token: str) -> Invitation:
        """Return the open invitation of a token, locked. Raises InvitationInvalidError."""
        prefix = prefix_of(_SCHEME, token)
        found = None if prefix is None else invitations.lock_presented(connection, prefix)
        if (
            found is None
            or not hmac.compare_digest(found.digest, key_hash(self._secret_key, token))
            or found.invitation.status is not InvitationStatus.OPEN
        ):
            raise InvitationInvalidError(
                "This invitation is not valid, was used, or has expired. Ask for another one."
            )
        return found.invitation


def _find(
    connection: Connection, *, workspace_id: UUID, before: UUID | None, limit: int
) -> list[Invitation]:
    return invitations.find(connection, workspace_id, before=before, limit=limit)


def _get(
    connection: Connection, workspace_id: UUID, invitation_id: UUID, *, lock: bool = False
) -> Invitation:
    found = invitations.get(connection, workspace_id, invitation_id, lock=lock)
    return present(found, "invitation", invitation_id)


def _refuse_member(connection: Connection, workspace_id: UUID, user: User) -> None:
    if workspaces.member(connection, workspace_id, user.id):
        raise ConflictError(f"The user {user.name!r} is a member already.")


def _new_user(connection: Connection, invitation: Invitation) -> User:
    user_id = accounts.add_user(connection, name=invitation.name, role=Role.OPERATOR)
    if user_id is None:
        raise NameTakenError(
            f"The name {invitation.name!r} was taken meanwhile; ask for another invitation.",
            field="token",
        )
    return present(accounts.user(connection, user_id), "user", user_id)


def _owner(user: User, request_id: str | None) -> Actor:
    """Return the actor of a new user, who has no key yet."""
    return Actor(
        user.id,
        user.name,
        user.role,
        user.workspace_id,
        personal_key=True,
        request_id=request_id,
    )


def _permitted(actor: Actor | None, user: User, invitation: Invitation) -> Actor:
    """Return the actor of a user who accepts; raises an error for anybody else."""
    if user.disabled_at is not None:
        raise ForbiddenError("The user of this invitation is disabled; ask an administrator.")
    if actor is None:
        raise UnauthenticatedError(
            f"The invitation is for the user {user.name!r}: accept it with a key of theirs."
        )
    if actor.user_id != user.id or not actor.personal_key:
        raise ForbiddenError(
            f"The invitation is for the user {user.name!r}: accept it with a key of their personal "
            "workspace."
        )
    if not actor.limit.includes(invitation.role):
        raise ForbiddenError(
            f"The key has the role {actor.limit}, the invitation {invitation.role}: accept it with "
            "a key of that role.",
            required=invitation.role.value,
        )
    return actor


def _record(
    connection: Connection, actor: Actor, verb: str, found: Invitation, **details: JsonValue
) -> None:
    audit.record(
        connection,
        actor,
        f"invitation.{verb}",
        [found.id],
        details=details,
        workspace_id=found.workspace_id,
    )
