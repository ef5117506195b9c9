"""The report of an execution: what it did and what came of it, for people."""

from celeriac.domain.reports.report import CONTENT_SECURITY_POLICY, ReportFormat, html, markdown

__all__ = ["CONTENT_SECURITY_POLICY", "ReportFormat", "html", "markdown"]
