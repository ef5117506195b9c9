"""Saved working directories, and the objects that hold the content of their files.

An object is claimed before it is uploaded (`claim_objects`), and named after that, by the artifacts
of the same transaction (`name_objects`). An object that no artifact names is deleted later: its row
is locked while its content is deleted, so a claim of the same digest waits, and uploads it again.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from celeriac.db.paging import columns, read_all, read_one, reader
from celeriac.db.schema.artifacts import artifacts as table
from celeriac.db.schema.artifacts import file_sets
from celeriac.domain.artifacts import Artifact, ArtifactOwner, EntryKind, FileSet, SavedFile
from celeriac.domain.executions.model import Lease
from celeriac.kit.json_types import JsonObject, storable

_SET = columns(FileSet, file_sets)
_ARTIFACT, _FILE = columns(Artifact, table), columns(SavedFile, table)
_set, _artifact, _file = reader(FileSet), reader(Artifact), reader(SavedFile)


def file_set(connection: Connection, owner_id: UUID) -> FileSet | None:
    """Return the saved working directory of a session or execution, if there is one."""
    query = _SET.where(file_sets.c.owner_id == owner_id, file_sets.c.deleted_at.is_(None))
    return read_one(connection, query, _set)


def entries(connection: Connection, owner_id: UUID) -> list[Artifact]:
    """Return all entries of a saved working directory, in the order of their paths."""
    query = _ARTIFACT.where(table.c.owner_id == owner_id).order_by(table.c.path)
    return read_all(connection, query, _artifact)


def files(
    connection: Connection, owner_id: UUID, *, after: str | None, limit: int
) -> list[SavedFile]:
    """Return up to `limit` files of a saved working directory that follow the path `after`."""
    query = _FILE.where(table.c.owner_id == owner_id, table.c.path > (after or ""))
    query = query.where(table.c.kind == EntryKind.FILE).order_by(table.c.path).limit(limit)
    return read_all(connection, query, _file)


def file(connection: Connection, owner_id: UUID, path: str) -> SavedFile | None:
    """Return a file of a saved working directory, or None if there is none."""
    query = _FILE.where(table.c.owner_id == owner_id, table.c.path == path)
    return read_one(connection, query.where(table.c.kind == EntryKind.FILE), _file)


_CLAIM = text("""
INSERT INTO objects AS o (workspace_id, digest, size, unnamed_since)
SELECT :workspace_id, d.digest, d.size, now()
FROM unnest(CAST(:digests AS bytea[]), CAST(:sizes AS bigint[])) AS d (digest, size)
ORDER BY d.digest
ON CONFLICT (workspace_id, digest) DO UPDATE SET unnamed_since = now()
RETURNING digest, stored
""")


def claim_objects(
    connection: Connection, workspace_id: UUID, sizes: Mapping[bytes, int]
) -> set[bytes]:
    """Keep objects from being deleted for the grace time; return those that must be uploaded."""
    parameters = {
        "workspace_id": workspace_id,
        "digests": list(sizes),
        "sizes": list(sizes.values()),
    }
    rows = connection.execute(_CLAIM, parameters)
    return {bytes(digest) for digest, stored in rows if not stored}


# All rows are locked in one order, so that two saves in a workspace never wait for each other.
_NAME = text("""
WITH locked AS (
    SELECT digest FROM objects
    WHERE workspace_id = :workspace_id
      AND digest = ANY (CAST(:named AS bytea[]) || CAST(:unnamed AS bytea[]))
    ORDER BY digest
    FOR UPDATE
), left_over AS (
    UPDATE objects SET unnamed_since = now()
    WHERE workspace_id = :workspace_id AND digest = ANY (ARRAY(SELECT digest FROM locked))
      AND digest <> ALL (CAST(:named AS bytea[]))
)
UPDATE objects SET stored = true, unnamed_since = NULL
WHERE workspace_id = :workspace_id AND digest = ANY (ARRAY(SELECT digest FROM locked))
  AND digest = ANY (CAST(:named AS bytea[]))
""")


def name_objects(
    connection: Connection,
    workspace_id: UUID,
    named: Collection[bytes],
    unnamed: Collection[bytes] = (),
) -> bool:
    """Note that artifacts of this transaction name uploaded objects, and `unnamed` no longer.

    False if one that is named was deleted meanwhile: its upload took longer than the grace time.
    """
    parameters = {
        "workspace_id": workspace_id,
        "named": sorted(named),
        "unnamed": sorted(unnamed),
    }
    return connection.execute(_NAME, parameters).rowcount == len(named)


_SAVE = text("""
WITH held AS (
    -- locked: nothing is saved after the end of its attempt
    SELECT workspace_id FROM executions
    WHERE id = :execution_id AND attempt = :attempt AND lease_token = :token
      AND status = 'running'
    FOR NO KEY UPDATE
)
INSERT INTO file_sets (owner_id, is_session, workspace_id, execution_id, version, skipped)
SELECT :owner_id, :is_session, workspace_id, :execution_id, :version, :skipped FROM held
ON CONFLICT (owner_id) DO UPDATE
SET execution_id = excluded.execution_id, version = excluded.version, skipped = excluded.skipped,
    saved_at = now(), deleted_at = NULL
RETURNING workspace_id
""")


def save_set(
    connection: Connection, lease: Lease, owner: ArtifactOwner, *, version: UUID, skipped: int
) -> UUID | None:
    """Store the version of a working directory; return its workspace, or None for a lost lease."""
    parameters = {
        **asdict(lease),
        "owner_id": owner.id,
        "is_session": owner.is_session,
        "version": version,
        "skipped": skipped,
    }
    return connection.execute(_SAVE, parameters).scalar_one_or_none()


_REMOVE = text("""
DELETE FROM artifacts WHERE owner_id = :owner_id AND path = ANY (CAST(:paths AS text[]))
""")

_PUT = text("""
INSERT INTO artifacts (owner_id, path, workspace_id, execution_id, kind, size, mode, digest, target,
                       media_type, modified_at)
SELECT :owner_id, e.path, :workspace_id, :execution_id, e.kind, e.size, e.mode,
       decode(e.digest, 'hex'), e.target, e.media_type, e.modified_at
FROM json_to_recordset(CAST(:entries AS json)) AS e (
    path text, kind text, size bigint, mode integer, digest text, target text, media_type text,
    modified_at timestamptz)
ON CONFLICT (owner_id, path) DO UPDATE
SET execution_id = excluded.execution_id, kind = excluded.kind, size = excluded.size,
    mode = excluded.mode, digest = excluded.digest, target = excluded.target,
    media_type = excluded.media_type, modified_at = excluded.modified_at, created_at = now()
""")


def change_entries(
    connection: Connection,
    owner_id: UUID,
    *,
    workspace_id: UUID,
    execution_id: UUID,
    changed: Sequence[Artifact],
    gone: Sequence[str],
) -> None:
    """Replace entries of a working directory, and remove those at the paths `gone`."""
    if gone:
        connection.execute(_REMOVE, {"owner_id": owner_id, "paths": list(gone)})
    if changed:
        parameters = {
            "owner_id": owner_id,
            "workspace_id": workspace_id,
            "execution_id": execution_id,
            "entries": storable([_row(each) for each in changed]),
        }
        connection.execute(_PUT, parameters)


def _row(entry: Artifact) -> JsonObject:
    return {
        "path": entry.path,
        "kind": entry.kind.value,
        "size": entry.size,
        "mode": entry.mode,
        "digest": None if entry.digest is None else entry.digest.hex(),
        "target": entry.target,
        "media_type": entry.media_type,
        "modified_at": entry.modified_at.isoformat(),
    }


_EXPIRE = text("""
UPDATE file_sets SET deleted_at = now() WHERE owner_id IN (
    SELECT f.owner_id FROM file_sets f LEFT JOIN executions e ON e.id = f.owner_id
    WHERE NOT f.is_session AND f.deleted_at IS NULL
      AND f.saved_at < now() - make_interval(secs => :seconds)
      AND (e.id IS NULL OR e.completed_at < now() - make_interval(secs => :seconds))
    ORDER BY f.saved_at
    LIMIT :limit)
""")


def expire(connection: Connection, *, seconds: float, limit: int) -> int:
    """Delete directories of executions that ended so long ago; return how many."""
    return connection.execute(_EXPIRE, {"seconds": seconds, "limit": limit}).rowcount


_PURGE = text("""
WITH sets AS (
    SELECT owner_id FROM file_sets WHERE deleted_at IS NOT NULL ORDER BY deleted_at LIMIT :limit
), entries AS (
    -- one directory after the other: what is beyond the limit is not read
    SELECT a.owner_id, a.path
    FROM sets, LATERAL (
        SELECT owner_id, path FROM artifacts WHERE artifacts.owner_id = sets.owner_id
        LIMIT :limit) a
    LIMIT :limit
), gone AS (
    DELETE FROM artifacts a USING entries e WHERE a.owner_id = e.owner_id AND a.path = e.path
    RETURNING a.workspace_id, a.digest
), locked AS (
    -- in the order of `claim_objects` and `name_objects`
    SELECT workspace_id, digest FROM objects
    WHERE (workspace_id, digest) IN (
        SELECT workspace_id, digest FROM gone WHERE digest IS NOT NULL)
    ORDER BY workspace_id, digest
    FOR UPDATE
), unnamed AS (
    UPDATE objects o SET unnamed_since = now()
    FROM locked WHERE o.workspace_id = locked.workspace_id AND o.digest = locked.digest
)
SELECT count(*) FROM gone
""")

_FORGET = text("""
DELETE FROM file_sets f WHERE f.owner_id IN (
    SELECT owner_id FROM file_sets WHERE deleted_at IS NOT NULL ORDER BY deleted_at LIMIT :limit)
  AND NOT EXISTS (SELECT FROM artifacts a WHERE a.owner_id = f.owner_id)
""")


def purge(connection: Connection, *, limit: int) -> int:
    """Remove up to `limit` artifacts of deleted directories, and directories without any.

    Returns how many artifacts and directories those were. Needs a transaction.
    """
    removed = int(connection.execute(_PURGE, {"limit": limit}).scalar_one())
    return removed + connection.execute(_FORGET, {"limit": limit}).rowcount


_NAMED = """EXISTS (
    SELECT FROM artifacts a WHERE a.workspace_id = o.workspace_id AND a.digest = o.digest)"""

_MARK = text(f"""
WITH old AS (
    SELECT workspace_id, digest FROM objects
    WHERE unnamed_since < now() - make_interval(secs => :seconds)
    ORDER BY unnamed_since
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
)
UPDATE objects o
SET stored = o.stored AND {_NAMED}, unnamed_since = CASE WHEN {_NAMED} THEN NULL
                                                         ELSE o.unnamed_since END
FROM old WHERE o.workspace_id = old.workspace_id AND o.digest = old.digest
RETURNING o.workspace_id, o.digest, o.unnamed_since IS NOT NULL
""")  # noqa: S608 - put together from constants


@dataclass(frozen=True, slots=True)
class Marked:
    """Objects that were examined, the oldest first."""

    examined: int
    unreferenced: Sequence[tuple[UUID, bytes]]
    """Those that no artifact names, each with its workspace."""


def mark_objects(connection: Connection, *, seconds: float, limit: int) -> Marked:
    """Mark objects as not stored that no artifact has named for `seconds`; examine up to `limit`.

    One that an artifact names after all is noted as named. A later claim of a marked object uploads
    it again. Commit before `unreferenced_objects`.
    """
    rows = connection.execute(_MARK, {"seconds": seconds, "limit": limit}).all()
    return Marked(len(rows), [(row[0], bytes(row[1])) for row in rows if row[2]])


_UNREFERENCED = text(f"""
SELECT o.workspace_id, o.digest
FROM unnest(CAST(:workspaces AS uuid[]), CAST(:digests AS bytea[])) AS d (workspace_id, digest)
JOIN objects o ON o.workspace_id = d.workspace_id AND o.digest = d.digest
WHERE o.unnamed_since < now() - make_interval(secs => :seconds) AND NOT o.stored AND NOT {_NAMED}
FOR UPDATE OF o SKIP LOCKED
""")  # noqa: S608 - put together from constants


def unreferenced_objects(
    connection: Connection, marked: Sequence[tuple[UUID, bytes]], *, seconds: float
) -> list[tuple[UUID, bytes]]:
    """Lock and return those of the marked objects that no attempt has claimed meanwhile."""
    rows = connection.execute(_UNREFERENCED, {**_keys(marked), "seconds": seconds})
    return [(workspace_id, bytes(digest)) for workspace_id, digest in rows]


_FORGET_OBJECTS = text("""
DELETE FROM objects o
USING unnest(CAST(:workspaces AS uuid[]), CAST(:digests AS bytea[])) AS d (workspace_id, digest)
WHERE o.workspace_id = d.workspace_id AND o.digest = d.digest
""")


def forget_objects(connection: Connection, deleted: Sequence[tuple[UUID, bytes]]) -> None:
    """Delete the rows of objects whose content is deleted, in the transaction that locked them."""
    connection.execute(_FORGET_OBJECTS, _keys(deleted))


def _keys(objects: Sequence[tuple[UUID, bytes]]) -> dict[str, object]:
    return {
        "workspaces": [workspace for workspace, _ in objects],
        "digests": [digest for _, digest in objects],
    }


def delete_sets(ids: str) -> str:
    """Return the part of a statement that deletes the directories of the owners `ids`, an array.

    `purge` removes what belongs to them.
    """
    return f"""
    UPDATE file_sets SET deleted_at = now() WHERE owner_id = ANY ({ids}) AND deleted_at IS NULL
    """  # noqa: S608 - an expression of ours
