"""Table of reports."""

from sqlalchemy import (
    Column,
    Integer,
    LargeBinary,
    Table,
    Text,
    Uuid,
)

from celeriac.db.schema.base import enum_check, metadata, partitioned, timestamp
from celeriac.domain.reports import ReportFormat

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
    **partitioned("execution_id", dead=100_000, inserted=100_000),
)
