"""The report of an execution: what it did and what came of it, for people."""

from celeriac.domain.report.format import ReportFormat
from celeriac.domain.report.page import CONTENT_SECURITY_POLICY, html
from celeriac.domain.report.writing import markdown

__all__ = ["CONTENT_SECURITY_POLICY", "ReportFormat", "html", "markdown"]
