"""The report of an execution: what it did and what came of it, for people."""

from celeriac.domain.report.format import ReportFormat
from celeriac.domain.report.writing import markdown

__all__ = ["ReportFormat", "markdown"]
