"""The report of an execution for people: what it did, and its result."""

from celeriac.domain.reports.report import CONTENT_SECURITY_POLICY, ReportFormat, html, markdown

__all__ = ["CONTENT_SECURITY_POLICY", "ReportFormat", "html", "markdown"]
