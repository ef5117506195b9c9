"""Reports of executions, as they were made."""

from sqlalchemy import Column, Integer, LargeBinary, Table, Text, Uuid

from celeriac.db.models.base import metadata, moment, one_of
from celeriac.domain.report import ReportFormat

reports = Table(
    "reports",
    metadata,
    Column("execution_id", Uuid, primary_key=True),
    Column("format", Text, primary_key=True),
    Column("size", Integer, nullable=False),
    Column("sha256", Text, nullable=False),
    moment("created_at", now=True),
    Column("content", LargeBinary, nullable=False),
    one_of("format", ReportFormat),
)
