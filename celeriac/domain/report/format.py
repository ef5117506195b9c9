"""How a report can be written."""

from enum import StrEnum


class ReportFormat(StrEnum):
    """The formats of reports."""

    MARKDOWN = "markdown"
    HTML = "html"
