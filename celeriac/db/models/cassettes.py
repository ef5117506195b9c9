"""Recorded model traffic."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    Uuid,
    text,
)

from celeriac.db.models.base import identifier, metadata, moment

cassettes = Table(
    "cassettes",
    metadata,
    identifier(),  # that of the execution, where one recorded it
    Column("owner_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("execution_id", Uuid),
    Column("interactions", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("content", LargeBinary, nullable=False),
    moment("created_at", now=True),
    Index(None, "owner_id", "id"),
    Index(
        "ix_cassettes_uploaded",
        "owner_id",
        "digest",
        unique=True,
        postgresql_where=text("execution_id IS NULL"),
    ),
)
