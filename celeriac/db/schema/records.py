"""Tables of cassettes and reports."""

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
)

from celeriac.db.schema.base import enum_check, metadata, timestamp, uuid_pk, where
from celeriac.domain.reports import ReportFormat

cassettes = Table(
    "cassettes",
    metadata,
    uuid_pk(),  # the id of the execution, if one recorded it
    Column("owner_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("execution_id", Uuid),
    Column("interactions", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("complete", Boolean, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("content", LargeBinary, nullable=False),
    timestamp("created_at", now=True),
    Index(None, "owner_id", "id"),
    Index(
        "ix_cassettes_uploaded", "owner_id", "digest", unique=True, **where("execution_id IS NULL")
    ),
)


reports = Table(
    "reports",
    metadata,
    Column("execution_id", Uuid, primary_key=True),
    Column("format", Text, primary_key=True),
    Column("size", Integer, nullable=False),
    Column("sha256", Text, nullable=False),
    timestamp("created_at", now=True),
    Column("content", LargeBinary, nullable=False),
    enum_check("format", ReportFormat),
)
