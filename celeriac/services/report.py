"""Report: what an execution did, made from its row and its log whenever it is asked for."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import structlog
from markdown_it import MarkdownIt

from celeriac.domain import report
from celeriac.domain.accounts import Actor
from celeriac.domain.errors import ConflictError
from celeriac.logs import Step
from celeriac.services.queries import Queries

logger = structlog.get_logger(__name__)

_EVENTS = 10_000
"""So many events at most are in a report; the log itself has all."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Execution {execution_id}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto }}
pre {{ background: #f4f4f2; padding: .75rem; overflow-x: auto; white-space: pre-wrap }}
</style>
</head>
<body>
{body}</body>
</html>
"""


class ReportFormat(StrEnum):
    """How a report is written."""

    MARKDOWN = "markdown"
    HTML = "html"


@dataclass(frozen=True, slots=True)
class Report:
    """A report ready to be downloaded; `size` counts its bytes."""

    execution_id: UUID
    format: ReportFormat
    content: bytes

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self.content)


class Reports:
    """Writes reports. Safe to share between threads."""

    def __init__(self, queries: Queries) -> None:
        """Read through `queries`."""
        self._queries = queries

    def __call__(self, actor: Actor, execution_id: UUID, wanted: ReportFormat) -> Report:
        """Return the report of a finished execution.

        The same execution gives the same bytes each time. Raises NotFoundError, and ConflictError
        while the execution isn't finished.
        """
        execution = self._queries.execution(actor, execution_id)
        if not execution.status.terminal:
            raise ConflictError(
                f"The execution is {execution.status}; its report is there when it has ended.",
                status=execution.status.value,
            )
        events = self._queries.events(actor, execution_id, limit=_EVENTS)
        text = report.markdown(execution, events)
        if wanted is ReportFormat.HTML:
            # no raw HTML passes: what a model wrote must not run in a reader's browser
            body = MarkdownIt("commonmark", {"html": False}).render(text)
            text = _PAGE.format(execution_id=execution_id, body=body)
        made = Report(execution_id, wanted, text.encode())
        logger.info(
            Step.REPORT_GENERATED, execution_id=execution_id, format=wanted.value, size=made.size
        )
        return made
