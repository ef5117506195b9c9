"""Reports of executions."""

from datetime import datetime

from pydantic import Field

from celeriac.domain.report import ReportFormat
from celeriac.wire import examples
from celeriac.wire.base import Links, Wire, example


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
