"""Worker processes, as they report themselves."""

from sqlalchemy import Column, Double, Integer, Table, Text
from sqlalchemy.dialects.postgresql import BIGINT

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
    moment("started_at", now=True),
    moment("seen_at", now=True),
    moment("stopped_at"),
)
"""One row per process that runs executions (each prefork child has its own)."""
