"""Sessions and reports as HTTP shapes."""

from datetime import datetime
from uuid import UUID

from pydantic import Field

from celeriac.domain.reports import ReportFormat
from celeriac.domain.sessions import SessionStatus
from celeriac.wire.base import ID, Links, Wire, links


class Session(Wire):
    """The conversation of an execution; a later one can continue it."""

    id: UUID
    workspace_id: UUID
    owner_id: UUID = Field(description="Who made it.")
    execution_id: UUID = Field(description="The execution that created it.")
    runner: str = Field(description="The kind of agent that it belongs to.", examples=["claude"])
    parent_id: UUID | None = Field(description="The session that it was forked from.")
    external_id: str | None = Field(description="Its id in the agent's own SDK.")
    status: SessionStatus = Field(
        description="active while an execution uses it or waits to; ended or failed afterwards; "
        "deleted when its files are removed."
    )
    error_code: str | None
    error_message: str | None
    created_at: datetime
    updated_at: datetime
    links: Links = links(
        self="/api/v1/sessions/{id}",
        execution="/api/v1/task-executions/{execution_id}",
        parent="/api/v1/sessions/{parent_id}",
        executions="/api/v1/task-executions?session_id={id}",
        files="/api/v1/sessions/{id}/files",
    )


class File(Wire):
    """A file of a working directory."""

    path: str = Field(description="Relative, with slashes.", examples=["notes/summary.md"])
    size: int = Field(description="Bytes.", examples=[1834])
    media_type: str = Field(
        description="Guessed from the name. Downloads are sent as application/octet-stream.",
        examples=["text/markdown"],
    )
    sha256: str = Field(
        description="Checksum of the content, in hexadecimal.",
        examples=["2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"],
    )
    execution_id: UUID = Field(description="The execution that saved this version.")
    modified_at: datetime = Field(description="When it was written to.")
    created_at: datetime = Field(description="When this version was saved.")
    links: Links = links(self=f"/api/v1/sessions/{ID}/files/{{path}}")


class Files(Wire):
    """A page of a directory's files, of all levels, in the order of their paths."""

    items: list[File]
    next_after: str | None = Field(
        description="Send it as `after` for the next page; null on the last one."
    )
    skipped: int = Field(
        description="Entries left out in the whole directory: links, pipes, devices, names that "
        "are not UTF-8, and what exceeds the bounds.",
        examples=[0],
    )


class Report(Wire):
    """A stored report."""

    format: ReportFormat
    size: int = Field(description="Bytes.", examples=[4127])
    sha256: str = Field(
        description="Checksum of the content, in hexadecimal.",
        examples=["2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"],
    )
    created_at: datetime
    links: Links = links(self=f"/api/v1/task-executions/{ID}/report?format={{format}}")


class Reports(Wire):
    """The reports of an execution."""

    items: list[Report]
