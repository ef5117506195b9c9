"""The audit trail: who did what to which resource, written in the transaction of the change.

The tables refuse every UPDATE and DELETE but those of `retention`. Sealing is described in
`domain.audit`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from uuid import UUID

from sqlalchemy import Connection, insert, select, text

from celeriac.db.schema import audit_logs as table
from celeriac.db.schema import audit_seals as seals
from celeriac.domain.accounts import Actor
from celeriac.domain.audit import AuditEntry, AuditFilter, Seal
from celeriac.kit.ids import uuid7
from celeriac.kit.json_types import JsonObject

_ENTRY = select(*(table.c[field.name] for field in fields(AuditEntry)))
_SEAL = select(*(seals.c[field.name] for field in fields(Seal)))


def record(
    connection: Connection,
    actor: Actor,
    action: str,
    resource_type: str,
    resource_ids: Sequence[UUID | str],
    *,
    details: JsonObject | None = None,
) -> None:
    """Write one entry for each resource, in the caller's transaction.

    `action` is `resource.verb`. No secret belongs into `details`.
    """
    rows = [
        {
            "id": uuid7(),
            "actor_id": actor.user_id,
            "actor": actor.name,
            "action": action,
            "resource_type": resource_type,
            "resource_id": str(resource_id),
            "request_id": actor.request_id,
            "details": dict(details or {}),
        }
        for resource_id in resource_ids
    ]
    if rows:
        connection.execute(insert(table), rows)


def failed(
    connection: Connection,
    execution_id: UUID,
    *,
    actor: str,
    request_id: str | None,
    details: JsonObject,
) -> None:
    """Write that an execution has failed for good (REQUIREMENTS A17), as a program saw it."""
    by_program(
        connection,
        actor,
        "execution.fail",
        "execution",
        execution_id,
        request_id=request_id,
        details=details,
    )


def by_program(
    connection: Connection,
    actor: str,
    action: str,
    resource_type: str,
    resource_id: UUID | str,
    *,
    request_id: str | None,
    details: JsonObject,
) -> None:
    """Write an entry without a user; `actor` names the program or the caller. See `record`."""
    values = {
        "id": uuid7(),
        "actor": actor,
        "action": action,
        "resource_type": resource_type,
        "resource_id": str(resource_id),
        "request_id": request_id,
        "details": dict(details),
    }
    connection.execute(insert(table).values(values))


def find(
    connection: Connection, wanted: AuditFilter, *, before: UUID | None, limit: int
) -> list[AuditEntry]:
    """Return up to `limit` entries older than `before`, the newest first."""
    query = _ENTRY
    for name in ("actor_id", "action", "resource_type", "resource_id"):
        value = getattr(wanted, name)
        if value is not None:
            query = query.where(table.c[name] == value)
    if before is not None:
        query = query.where(table.c.id < before)
    rows = connection.execute(query.order_by(table.c.id.desc()).limit(limit))
    return [AuditEntry(*row) for row in rows]


def between(connection: Connection, first: int, last: int) -> list[AuditEntry]:
    """Return the entries at the positions `first` to `last`, both included, in their order."""
    query = _ENTRY.where(table.c.position.between(first, last)).order_by(table.c.position)
    return [AuditEntry(*row) for row in connection.execute(query)]


_HANDED_OUT = text("""
SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM audit_logs_position_seq
""")
_NEXT_TRANSACTION = text("SELECT CAST(pg_snapshot_xmax(pg_current_snapshot())::text AS bigint)")
_OLDEST_TRANSACTION = text("SELECT CAST(pg_snapshot_xmin(pg_current_snapshot())::text AS bigint)")


@dataclass(frozen=True, slots=True)
class Mark:
    """A position, and the first transaction that cannot have got one up to it."""

    position: int
    transaction: int


def mark(connection: Connection) -> Mark:
    """Return the highest position that was handed out so far; needs autocommit."""
    position = connection.execute(_HANDED_OUT).scalar_one()
    return Mark(position, connection.execute(_NEXT_TRANSACTION).scalar_one())


def settled(connection: Connection, earlier: Mark) -> bool:
    """Whether all transactions have ended that may have a position up to `earlier`."""
    return bool(connection.execute(_OLDEST_TRANSACTION).scalar_one() >= earlier.transaction)


_ALONE = text("SELECT pg_try_advisory_xact_lock(4242422)")


def sealing_alone(connection: Connection) -> bool:
    """Whether nobody else seals now; holds to the end of the transaction."""
    return bool(connection.execute(_ALONE).scalar_one())


def last_seal(connection: Connection) -> Seal | None:
    """Return the newest seal."""
    row = connection.execute(_SEAL.order_by(seals.c.last_position.desc()).limit(1)).one_or_none()
    return None if row is None else Seal(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name


def seals_after(connection: Connection, position: int, *, limit: int) -> list[Seal]:
    """Return up to `limit` seals that end above `position`, the oldest first."""
    query = _SEAL.where(seals.c.last_position > position).order_by(seals.c.last_position)
    return [Seal(**row) for row in connection.execute(query.limit(limit)).mappings()]


def add_seal(connection: Connection, seal: Seal) -> None:
    """Store a seal."""
    connection.execute(insert(seals).values(**asdict(seal)))


_NTH_POSITION = text("""
SELECT max(position) FROM (
    SELECT position FROM audit_logs WHERE position > :after AND position <= :until
    ORDER BY position LIMIT :limit) AS batch
""")


def batch_end(connection: Connection, after: int, until: int, *, limit: int) -> int | None:
    """Return the position of the last of the next `limit` entries; None where there is none."""
    parameters = {"after": after, "until": until, "limit": limit}
    position: int | None = connection.execute(_NTH_POSITION, parameters).scalar_one()
    return position


_ONE_SNAPSHOT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def read_one_snapshot(connection: Connection) -> None:
    """Have all reads of a transaction see the same state; call it first in the transaction."""
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
"""The resource id of the entries that name what retention removed."""


@dataclass(frozen=True, slots=True)
class Expired:
    """What retention removed: entries up to `position`, and the last of their seals."""

    entries: int
    position: int
    seal: bytes


def delete_sealed(connection: Connection, *, seconds: float, limit: int) -> Expired | None:
    """Delete up to `limit` seals that are older than `seconds`, with the entries under them.

    For a transaction: the tables accept a DELETE only in one that allows it, as this does. The
    newest seal stays: the next one names it.
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
    """Return the newest entry about what retention removed."""
    query = _ENTRY.where(table.c.resource_type == "audit_log", table.c.resource_id == RETENTION)
    row = connection.execute(query.order_by(table.c.position.desc()).limit(1)).one_or_none()
    return None if row is None else AuditEntry(*row)
