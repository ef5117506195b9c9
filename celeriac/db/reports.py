"""Reports as they were made: kept compressed, with their size and checksum."""

import zlib
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, select, text

from celeriac.db.schema import reports as table
from celeriac.domain.reports import ReportFormat


@dataclass(frozen=True, slots=True)
class StoredReport:
    """A report's facts; `size` is in bytes, `sha256` of the content in hexadecimal."""

    execution_id: UUID
    format: ReportFormat
    size: int
    sha256: str
    created_at: datetime


def find(connection: Connection, execution_id: UUID) -> list[StoredReport]:
    """Return what there is of an execution, in the order in which it was made."""
    query = (
        select(
            table.c.execution_id,
            table.c.format,
            table.c.size,
            table.c.sha256,
            table.c.created_at,
        )
        .where(table.c.execution_id == execution_id)
        .order_by(table.c.created_at, table.c.format)
    )
    return [
        StoredReport(row[0], ReportFormat(row[1]), row[2], row[3], row[4])
        for row in connection.execute(query)
    ]


def content(connection: Connection, execution_id: UUID, wanted: ReportFormat) -> bytes | None:
    """Return a report's bytes, or None where it has not been made."""
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
    """Keep a report of an execution that has ended; False where there is one already."""
    values = {
        "id": execution_id,
        "format": wanted,
        "size": len(made),
        "sha256": sha256,
        "content": zlib.compress(made),
    }
    return connection.execute(_ADD, values).one_or_none() is not None
