"""Worker processes, as they report themselves."""

from sqlalchemy import Boolean, Column, Double, Integer, Table, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, BIGINT

from celeriac.db.models.base import identifier, metadata, moment

workers = Table(
    "workers",
    metadata,
    identifier(),
    Column("hostname", Text, nullable=False, index=True),
    Column("pid", Integer, nullable=False),
    Column("pool", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("running", Integer, nullable=False, server_default="0"),
    Column("cpu_percent", Double, nullable=False, server_default="0"),
    Column("memory_bytes", BIGINT, nullable=False, server_default="0"),
    Column("version", Text, nullable=False),
    # empty and NULL: a worker of an older release, which doesn't say
    Column("queues", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("consuming", Boolean),
    Column("messages_dropped", BIGINT, nullable=False, server_default="0"),
    Column("unknown_tasks", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    moment("started_at", now=True),
    moment("seen_at", now=True),
    moment("stopped_at"),
)
"""One row per process that runs executions (each prefork child has its own)."""
