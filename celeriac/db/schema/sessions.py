"""Tables of sessions."""

from sqlalchemy import (
    JSON,
    Column,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)

from celeriac.db.schema.base import enum_check, metadata, table_of_ids, timestamp, where
from celeriac.domain.sessions import SessionStatus

sessions = table_of_ids(
    "sessions",
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("execution_id", Uuid, nullable=False, index=True),
    Column("runner", Text, nullable=False),
    Column("parent_id", Uuid),
    Column("external_id", Text),
    Column("state", JSON),
    Column("status", Text, nullable=False),
    Column("error_code", Text),
    Column("error_message", Text),
    timestamp("created_at", now=True),
    timestamp("updated_at", now=True),
    timestamp("files_removed_at"),
    # the last save that is stored
    Column("save_no", Integer, nullable=False, server_default="0"),
    Column("message_count", Integer, nullable=False, server_default="0"),
    enum_check("status", SessionStatus),
    Index(None, "workspace_id", "id"),
    Index("ix_sessions_deleted", "id", **where("status = 'deleted' AND files_removed_at IS NULL")),
    Index("ix_sessions_idle", "updated_at", **where("status IN ('ended', 'failed')")),
)

session_messages = Table(
    "session_messages",
    metadata,
    Column("session_id", Uuid, primary_key=True),
    Column("seq", Integer, primary_key=True),
    # JSON, not JSONB: it is read as it was written, and as a whole
    Column("body", JSON, nullable=False),
)
"""The conversations of sessions: the first `message_count` messages, numbered from 1.

Rows are appended. They are replaced only where a runner rewrites its history.
"""

transcript_entries = Table(
    "transcript_entries",
    metadata,
    Column("session_id", Uuid, primary_key=True),
    Column("project", Text, primary_key=True),
    Column("conversation", Text, primary_key=True),
    Column("subpath", Text, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("entry_id", Text, nullable=False),
    Column("body", JSON, nullable=False),
    UniqueConstraint(
        "session_id",
        "project",
        "conversation",
        "subpath",
        "entry_id",
        name="uq_transcript_entries_entry",
    ),
)
"""Conversations that an agent's own SDK writes, appended entry by entry and never changed."""
