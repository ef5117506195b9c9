"""Reports of executions as Markdown and HTML."""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC
from enum import StrEnum
from html import escape

from markdown_it import MarkdownIt

from celeriac.domain.approvals import Approval
from celeriac.domain.budgets import BudgetState
from celeriac.domain.executions.events import Event, EventType
from celeriac.domain.executions.model import Execution
from celeriac.domain.reports import sections as text
from celeriac.domain.reports.sections import Conversation, ModelCalls, ToolCalls, questions
from celeriac.domain.tasks import Priority
from celeriac.domain.usage import dollars

_MOST_STEPS = 2_000
_SHORT = 200


def markdown(
    execution: Execution,
    events: Iterable[Event],
    approvals: Sequence[Approval] = (),
    standings: Sequence[BudgetState] = (),
) -> str:
    """Return the report of a finished execution.

    `events` are its log from the beginning and in order, all of it or as much as is to be shown;
    they are read once and not kept. `approvals` are the questions that it asked, the oldest first;
    `standings` are the budgets that held it. The same gives the same text.
    """
    timeline = _Timeline()
    parts = (Conversation(), ToolCalls(), ModelCalls(), timeline)
    for event in events:
        for part in parts:
            part.add(event)
    sections = [
        f"# {text.inline(execution.task_name)}: {execution.status}",
        text.facts(_facts(execution, standings)),
        *_result(execution),
        *questions(approvals),
        *(section for part in parts for section in part.sections()),
        *_left_out(execution, timeline.steps),
    ]
    return "\n\n".join(sections) + "\n"


def _facts(execution: Execution, standings: Sequence[BudgetState]) -> Iterator[tuple[str, object]]:
    yield "Execution", execution.id
    yield "Session", execution.session_id
    yield "Repeats", execution.origin_id
    yield "Trigger", execution.trigger_type
    yield "Priority", Priority(execution.priority).label
    yield "Created", execution.created_at
    yield "Started", execution.started_at
    yield "Completed", execution.completed_at
    yield "Duration", f"{execution.duration_seconds or 0.0:.1f} s"
    yield "Attempts", execution.attempt
    yield "Worker", execution.worker_hostname
    yield "Messages", execution.message_count
    yield "Tool calls", execution.tool_call_count
    yield "Model calls", execution.model_call_count
    yield "Tokens", f"{execution.input_tokens} in, {execution.output_tokens} out"
    yield "Cost", f"{dollars(execution.cost)} US dollars" if execution.cost else None
    budget = execution.options.budget
    if budget is not None:
        yield "Budget", budget.model_dump_json(exclude_none=True)
    yield "Overshoot", "; ".join(each.beyond for each in standings if each.exceeded) or None
    yield "Cancelled by", execution.cancel_requested_by


def _result(execution: Execution) -> Iterator[str]:
    if execution.result is not None:
        yield "## Result"
        if execution.truncated:
            yield "**Cut off**: the model reached its token limit before the result was complete."
        yield text.block(execution.result)
    if execution.error_message:
        yield "## Error"
        code = text.inline(execution.error_code or "error")
        yield f"**{code}**: {text.inline(execution.error_message, 2_000)}"
        traceback = (execution.error_details or {}).get("traceback")
        if traceback:
            yield text.fenced(str(traceback))
    yield "## Variables"
    yield text.block(execution.variables)


class _Timeline:
    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, event: Event) -> None:
        if len(self._lines) == _MOST_STEPS:
            return
        line = f"{event.seq}. {event.at.astimezone(UTC):%H:%M:%S} **{text.inline(event.type)}**"
        if event.data and event.type is not EventType.MESSAGE:
            line += f" {text.inline(text.short(event.data, _SHORT))}"
        self._lines.append(line)

    def sections(self) -> Iterator[str]:
        yield "## Timeline"
        yield "\n".join(self._lines)

    @property
    def steps(self) -> int:
        return len(self._lines)


def _left_out(execution: Execution, shown: int) -> Iterator[str]:
    if execution.event_seq > shown:
        yield f"*{execution.event_seq - shown:,} later events are left out here.*"


class ReportFormat(StrEnum):
    """The formats of reports."""

    MARKDOWN = "markdown"
    HTML = "html"


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem }
pre { background: #f4f4f2; padding: .75rem; overflow-x: auto; white-space: pre-wrap }
table { border-collapse: collapse; font-size: .9em; margin: 1rem 0 }
th, td { border: 1px solid #ddd; padding: .25rem .5rem; text-align: left; vertical-align: top }
td, li { overflow-wrap: anywhere }
"""
_STYLE_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

CONTENT_SECURITY_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'"
"""What a browser may do with a page: nothing but its own style. The page says it itself, too: as a
file it has no headers."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}</body>
</html>
"""


def html(markdown: str, *, title: str) -> str:
    """Return the page of a report that was written by `celeriac.domain.reports.markdown`.

    Reports have no links, images or HTML of their own, so none is made of anything in them.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.disable(["link", "image", "autolink", "html_inline", "html_block", "reference"])
    return _PAGE.format(
        policy=escape(CONTENT_SECURITY_POLICY, quote=True).replace("&#x27;", "'"),
        title=escape(title),
        style=_STYLE,
        body=reader.render(markdown),
    )
