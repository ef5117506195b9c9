"""Table of cassettes."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    Text,
    Uuid,
)

from celeriac.db.schema.base import table_of_ids, timestamp, where

# the id is that of the execution, if one recorded it
cassettes = table_of_ids(
    "cassettes",
    Column("workspace_id", Uuid, nullable=False),
    Column("owner_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("execution_id", Uuid),
    Column("interactions", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("content", LargeBinary, nullable=False),
    timestamp("created_at", now=True),
    Index(None, "workspace_id", "id"),
    Index(
        "ix_cassettes_uploaded",
        "workspace_id",
        "digest",
        unique=True,
        **where("execution_id IS NULL"),
    ),
)
