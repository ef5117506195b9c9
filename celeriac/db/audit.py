"""The audit trail: entries, written in the transaction of the change, and their seals.

The tables refuse every UPDATE and DELETE except those of retention. Sealing is described in
`domain.audit`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

from sqlalchemy import Connection, insert, text

from celeriac.db.locks import AdvisoryLock
from celeriac.db.paging import columns, matching, newest, read_all, read_one, reader
from celeriac.db.schema.accounts import audit_logs as table
from celeriac.db.schema.accounts import audit_seals as seals
from celeriac.domain.accounts import Actor
from celeriac.domain.audit import AuditEntry, AuditFilter, Seal
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonObject

_ENTRY = columns(AuditEntry, table)
_SEAL = columns(Seal, seals)
_entry, _seal = reader(AuditEntry), reader(Seal)


@dataclass(frozen=True, slots=True)
class Program:
    """A program, or a caller without a user, as the trail names it."""

    name: str
    request_id: str | None = None
    workspace_id: UUID | None = None


def record(
    connection: Connection,
    by: Actor | Program,
    action: str,
    resource_ids: Sequence[UUID | str],
    *,
    details: JsonObject | None = None,
    resource_type: str | None = None,
    workspace_id: UUID | None = None,
) -> None:
    """Write one entry per resource, in the caller's transaction.

    `action` is `resource.verb`; it names the resource's type unless that is given. `details` must
    not contain secrets. `workspace_id` is that of the resources; default is the caller's. Its
    admins see the entries.
    """
    rows = [
        {
            "id": uuid7(),
            "workspace_id": workspace_id or by.workspace_id,
            "actor_id": by.user_id if isinstance(by, Actor) else None,
            "actor": by.name,
            "action": action,
            "resource_type": resource_type or action.partition(".")[0],
            "resource_id": str(resource_id),
            "request_id": by.request_id,
            "details": dict(details or {}),
        }
        for resource_id in resource_ids
    ]
    if rows:
        connection.execute(insert(table), rows)


def find(
    connection: Connection, wanted: AuditFilter, *, before: UUID | None, limit: int
) -> list[AuditEntry]:
    """Return up to `limit` entries older than `before`, the newest first."""
    names = ("workspace_id", "actor_id", "action", "resource_type", "resource_id")
    query = matching(_ENTRY, table, wanted, *names)
    return read_all(connection, newest(query, table.c.id, before=before, limit=limit), _entry)


def between(connection: Connection, first: int, last: int) -> list[AuditEntry]:
    """Return the entries at the positions `first` to `last`, both included, in their order."""
    query = _ENTRY.where(table.c.position.between(first, last)).order_by(table.c.position)
    return read_all(connection, query, _entry)


_HANDED_OUT = text("""
SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM audit_logs_position_seq
""")
_NEXT_TRANSACTION = text("SELECT CAST(pg_snapshot_xmax(pg_current_snapshot())::text AS bigint)")
_OLDEST_TRANSACTION = text("SELECT CAST(pg_snapshot_xmin(pg_current_snapshot())::text AS bigint)")


@dataclass(frozen=True, slots=True)
class Mark:
    """A position, and the first transaction that can only have been given later ones."""

    position: int
    transaction: int


def mark(connection: Connection) -> Mark:
    """Return the highest position given to an entry so far; needs autocommit."""
    position = connection.execute(_HANDED_OUT).scalar_one()
    return Mark(position, connection.execute(_NEXT_TRANSACTION).scalar_one())


def settled(connection: Connection, earlier: Mark) -> bool:
    """Whether all transactions that may have a position up to `earlier` have ended."""
    return bool(connection.execute(_OLDEST_TRANSACTION).scalar_one() >= earlier.transaction)


_LOCK = text(f"SELECT {AdvisoryLock.AUDIT.tried}")


def sealing_alone(connection: Connection) -> bool:
    """Lock sealing until the transaction ends; False if another process holds the lock."""
    return bool(connection.execute(_LOCK).scalar_one())


def last_seal(connection: Connection) -> Seal | None:
    """Return the newest seal."""
    query = _SEAL.order_by(seals.c.last_position.desc()).limit(1)
    return read_one(connection, query, _seal)


def seals_after(connection: Connection, position: int, *, limit: int) -> list[Seal]:
    """Return up to `limit` seals that end above `position`, the oldest first."""
    query = _SEAL.where(seals.c.last_position > position).order_by(seals.c.last_position)
    return read_all(connection, query.limit(limit), _seal)


def add_seal(connection: Connection, seal: Seal) -> None:
    """Store a seal."""
    connection.execute(insert(seals).values(**asdict(seal)))


_NTH_POSITION = text("""
SELECT max(position) FROM (
    SELECT position FROM audit_logs WHERE position > :after AND position <= :until
    ORDER BY position LIMIT :limit) AS batch
""")


def batch_end(connection: Connection, after: int, until: int, *, limit: int) -> int | None:
    """Return the position of the last of the next `limit` entries; None if there are no more."""
    parameters = {"after": after, "until": until, "limit": limit}
    position: int | None = connection.execute(_NTH_POSITION, parameters).scalar_one()
    return position


_ONE_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def read_one_snapshot(connection: Connection) -> None:
    """Let all reads of the transaction see one snapshot; must be its first statement."""
    connection.execute(_ONE_SNAPSHOT)


_EXPIRED_SEALS = text("""
SELECT last_position, seal FROM audit_seals
WHERE at < now() - make_interval(secs => :seconds)
  AND last_position < (SELECT max(last_position) FROM audit_seals)
ORDER BY last_position LIMIT :limit
""")
_ALLOW = text("SELECT set_config('celeriac.audit_retention', 'on', true)")
_DELETE_ENTRIES = text("DELETE FROM audit_logs WHERE position <= :position")
_DELETE_SEALS = text("DELETE FROM audit_seals WHERE last_position <= :position")

RETENTION = "retention"
"""The resource id of the entries about removals by retention."""


@dataclass(frozen=True, slots=True)
class Expired:
    """A removal by retention: the entries up to `position`, and the last of their seals."""

    entries: int
    position: int
    seal: bytes


def delete_sealed(connection: Connection, *, seconds: float, limit: int) -> Expired | None:
    """Delete up to `limit` seals that are older than `seconds`, with the entries under them.

    Needs a transaction: the tables accept a DELETE only in one that sets
    `celeriac.audit_retention`. The newest seal is kept: the next one refers to it.
    """
    parameters = {"seconds": seconds, "limit": limit}
    rows = connection.execute(_EXPIRED_SEALS, parameters).all()
    if not rows:
        return None
    position, seal = rows[-1]
    connection.execute(_ALLOW)
    deleted = connection.execute(_DELETE_ENTRIES, {"position": position}).rowcount
    connection.execute(_DELETE_SEALS, {"position": position})
    return Expired(deleted, position, bytes(seal))


def last_expiry(connection: Connection) -> AuditEntry | None:
    """Return the newest entry about a removal by retention."""
    query = _ENTRY.where(table.c.resource_type == "audit_log", table.c.resource_id == RETENTION)
    query = query.order_by(table.c.position.desc()).limit(1)
    return read_one(connection, query, _entry)
