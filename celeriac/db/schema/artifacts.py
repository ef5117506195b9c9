"""Tables of saved working directories and of the objects that hold their files."""

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, Table, Text, Uuid

from celeriac.db.schema.base import enum_check, metadata, timestamp, where
from celeriac.domain.artifacts import EntryKind

file_sets = Table(
    "file_sets",
    metadata,
    # of a session or an execution
    Column("owner_id", Uuid, primary_key=True),
    Column("is_session", Boolean, nullable=False),
    Column("workspace_id", Uuid, nullable=False),
    Column("execution_id", Uuid, nullable=False),
    Column("version", Uuid, nullable=False),
    Column("skipped", Integer, nullable=False),
    timestamp("saved_at", now=True),
    timestamp("deleted_at"),
    Index("ix_file_sets_aged", "saved_at", **where("NOT is_session AND deleted_at IS NULL")),
    Index("ix_file_sets_deleted", "deleted_at", **where("deleted_at IS NOT NULL")),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("owner_id", Uuid, primary_key=True),
    # "C": its order is that of the bytes, whatever the database's locale
    Column("path", Text(collation="C"), primary_key=True),
    Column("workspace_id", Uuid, nullable=False),
    Column("execution_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("mode", Integer, nullable=False),
    Column("digest", LargeBinary),
    Column("target", Text),
    Column("media_type", Text, nullable=False),
    timestamp("modified_at"),
    timestamp("created_at", now=True),
    enum_check("kind", EntryKind),
    Index("ix_artifacts_object", "workspace_id", "digest", **where("digest IS NOT NULL")),
)

objects = Table(
    "objects",
    metadata,
    Column("workspace_id", Uuid, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    Column("size", BigInteger, nullable=False),
    # false until its upload has ended, and again before it is deleted
    Column("stored", Boolean, nullable=False, server_default="false"),
    # since when perhaps no artifact names it; null while one does
    timestamp("unnamed_since"),
    Index("ix_objects_unnamed", "unnamed_since", **where("unnamed_since IS NOT NULL")),
)
