"""Stored reports: compressed, with their size and checksum."""

import zlib
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, select, text

from celeriac.db.paging import columns, read_all, reader
from celeriac.db.schema.reports import reports as table
from celeriac.domain.reports import ReportFormat


@dataclass(frozen=True, slots=True)
class StoredReport:
    """A report without its content; `size` is in bytes, `sha256` in hexadecimal."""

    execution_id: UUID
    format: ReportFormat
    size: int
    sha256: str
    created_at: datetime


_report = reader(StoredReport)


def find(connection: Connection, execution_id: UUID) -> list[StoredReport]:
    """Return the reports of an execution, in the order in which they were made."""
    query = columns(StoredReport, table).where(table.c.execution_id == execution_id)
    return read_all(connection, query.order_by(table.c.created_at, table.c.format), _report)


def content(connection: Connection, execution_id: UUID, wanted: ReportFormat) -> bytes | None:
    """Return a report's bytes, or None if it is not stored."""
    query = select(table.c.content).where(
        table.c.execution_id == execution_id, table.c.format == wanted
    )
    found = connection.execute(query).scalar_one_or_none()
    return None if found is None else zlib.decompress(found)


_ADD = text("""
INSERT INTO reports (execution_id, format, size, sha256, content)
SELECT id, :format, :size, :sha256, :content FROM executions
WHERE id = :id AND completed_at IS NOT NULL
ON CONFLICT DO NOTHING
RETURNING execution_id
""")


def add(
    connection: Connection,
    execution_id: UUID,
    wanted: ReportFormat,
    made: bytes,
    *,
    sha256: str,
) -> bool:
    """Store a report of an ended execution; False if it is stored already."""
    values = {
        "id": execution_id,
        "format": wanted,
        "size": len(made),
        "sha256": sha256,
        "content": zlib.compress(made),
    }
    return connection.execute(_ADD, values).one_or_none() is not None
