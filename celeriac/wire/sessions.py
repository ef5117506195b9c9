"""Sessions and reports as HTTP shapes."""

from datetime import datetime
from uuid import UUID

from pydantic import Field

from celeriac.domain.reports import ReportFormat
from celeriac.domain.sessions import SessionStatus
from celeriac.wire import examples
from celeriac.wire.base import Links, Wire, example


class Session(Wire):
    """The conversation of an execution; a later one can go on with it."""

    model_config = example(examples.SESSION)

    id: UUID
    owner_id: UUID
    execution_id: UUID = Field(description="The execution that began it.")
    runner: str = Field(description="The kind of agent that it belongs to.")
    parent_id: UUID | None = Field(description="The session that it was forked from.")
    external_id: str | None = Field(description="Its id in the agent's own SDK.")
    status: SessionStatus = Field(
        description="active while an execution works in it or waits to; ended or failed after it; "
        "deleted when its files are gone."
    )
    error_code: str | None
    error_message: str | None
    created_at: datetime
    updated_at: datetime
    links: Links = Field(alias="_links")


class File(Wire):
    """A file of a working directory."""

    path: str = Field(description="Relative, with slashes.")
    size: int = Field(description="Bytes.")
    modified_at: datetime
    links: Links = Field(alias="_links")


class Files(Wire):
    """Some of a directory's files, of all levels, in the order of their paths."""

    model_config = example(examples.FILES)

    items: list[File]
    next_after: str | None = Field(
        description="Send it as `after` for what follows; null on the last page."
    )
    skipped: int = Field(
        description="What else lies between: links, pipes, devices, names that are no UTF-8."
    )


class Report(Wire):
    """A report that was made."""

    format: ReportFormat
    size: int = Field(description="Bytes.")
    sha256: str = Field(description="Checksum of the content, in hexadecimal.")
    created_at: datetime
    links: Links = Field(alias="_links")


class Reports(Wire):
    """The reports of an execution."""

    model_config = example(examples.REPORTS)

    items: list[Report]
