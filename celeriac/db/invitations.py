"""Invitations to workspaces."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, and_, case, func, insert, or_, select, update
from sqlalchemy.sql.functions import now

from celeriac.db.paging import columns, newest, read_all, read_one, reader
from celeriac.db.schema.accounts import api_keys, memberships, users, workspaces
from celeriac.db.schema.accounts import invitations as table
from celeriac.domain.accounts import Invitation, InvitationStatus, Role
from celeriac.kit.ids import uuid7

_may_invite = and_(
    users.c.disabled_at.is_(None),
    or_(users.c.role == Role.ADMIN, memberships.c.role == Role.ADMIN),
    api_keys.c.revoked_at.is_(None),
    workspaces.c.deleted_at.is_(None),
)
"""Whether the maker of an invitation may still invite, and the key that made it is not revoked."""

_status = case(
    (table.c.accepted_at.is_not(None), InvitationStatus.ACCEPTED.value),
    (table.c.revoked_at.is_not(None), InvitationStatus.REVOKED.value),
    (table.c.expires_at <= now(), InvitationStatus.EXPIRED.value),
    (~func.coalesce(_may_invite, False), InvitationStatus.VOID.value),
    else_=InvitationStatus.OPEN.value,
)

_SELECT = (
    columns(Invitation, table, workspace_name=workspaces.c.name, status=_status)
    .join_from(table, workspaces, workspaces.c.id == table.c.workspace_id)
    .join(users, users.c.id == table.c.owner_id)
    .outerjoin(
        memberships,
        and_(
            memberships.c.workspace_id == table.c.workspace_id,
            memberships.c.user_id == table.c.owner_id,
        ),
    )
    .outerjoin(api_keys, api_keys.c.id == table.c.key_id)
)
_invitation = reader(Invitation)


def add(
    connection: Connection,
    *,
    workspace_id: UUID,
    owner_id: UUID,
    key_id: UUID | None,
    name: str,
    role: Role,
    prefix: str,
    digest: str,
    seconds: float,
) -> UUID:
    """Insert an invitation that expires after `seconds`; only the hash of its token is stored."""
    invitation_id = uuid7()
    connection.execute(
        insert(table).values(
            id=invitation_id,
            workspace_id=workspace_id,
            owner_id=owner_id,
            key_id=key_id,
            name=name,
            role=role.value,
            prefix=prefix,
            digest=digest,
            expires_at=now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds),
        )
    )
    return invitation_id


def get(
    connection: Connection, workspace_id: UUID, invitation_id: UUID, *, lock: bool = False
) -> Invitation | None:
    """Return an invitation to a workspace, or None; `lock` locks it for a change."""
    query = _SELECT.where(table.c.id == invitation_id, table.c.workspace_id == workspace_id)
    return read_one(connection, query.with_for_update(of=table) if lock else query, _invitation)


def find(
    connection: Connection, workspace_id: UUID, *, before: UUID | None, limit: int
) -> list[Invitation]:
    """Return up to `limit` invitations to a workspace older than `before`, the newest first."""
    query = _SELECT.where(table.c.workspace_id == workspace_id)
    return read_all(connection, newest(query, table.c.id, before=before, limit=limit), _invitation)


@dataclass(frozen=True, slots=True)
class Presented:
    """The invitation whose token somebody presented; `digest` is to be compared."""

    invitation: Invitation
    digest: str


def lock_presented(connection: Connection, prefix: str) -> Presented | None:
    """Return the invitation with this public prefix, locked until the transaction ends, or None.

    Its status is that after the lock: of two who accept at once the second finds it accepted.
    """
    locked = select(table.c.id, table.c.digest).where(table.c.prefix == prefix).with_for_update()
    row = connection.execute(locked).one_or_none()
    if row is None:
        return None
    found = read_one(connection, _SELECT.where(table.c.id == row.id), _invitation)
    return None if found is None else Presented(found, row.digest)


def mark_accepted(connection: Connection, invitation_id: UUID) -> None:
    """Record that an invitation was accepted: its token is used."""
    connection.execute(update(table).where(table.c.id == invitation_id).values(accepted_at=now()))


def revoke(connection: Connection, invitation_id: UUID) -> None:
    """Revoke an invitation that was not accepted."""
    connection.execute(
        update(table)
        .where(table.c.id == invitation_id, table.c.accepted_at.is_(None))
        .values(revoked_at=func.coalesce(table.c.revoked_at, now()))
    )
