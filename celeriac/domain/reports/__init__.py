"""Reports of executions as Markdown and HTML."""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from decimal import Decimal
from enum import StrEnum
from html import escape

from celeriac.domain.approvals import Approval, ApprovalStatus
from celeriac.domain.budgets import BudgetState
from celeriac.domain.executions.events import Event, EventType
from celeriac.domain.executions.model import Execution
from celeriac.domain.reports.text import block, bounded_table, facts, fenced, inline, short, table
from celeriac.domain.tasks import Priority
from celeriac.domain.usage import dollars
from celeriac.kit.json_types import JsonObject
from celeriac.kit.words import counted

_MOST_STEPS = 2_000
_MOST_ROWS = 1_000
_SHORT = 200
_SHORT_ARGUMENTS = 120


def markdown(
    execution: Execution,
    events: Iterable[Event],
    approvals: Sequence[Approval] = (),
    states: Sequence[BudgetState] = (),
    children: Sequence[Execution] = (),
) -> str:
    """Return the report of a finished execution.

    `events` are its log from the beginning and in order, all of it or the part to show; they are
    read once and not kept. `approvals` are its questions, the oldest first; `states` are the
    budgets that apply to it; `children` are executions that it started, the oldest first. Equal
    arguments give equal texts.
    """
    timeline = _Timeline()
    parts = (_Conversation(), _ToolCalls(), _ModelCalls(), timeline)
    for event in events:
        for part in parts:
            part.add(event)
    sections = [
        f"# {inline(execution.task_name)}: {execution.status}",
        facts(_facts(execution, states)),
        *_result(execution),
        *_questions(approvals),
        *_children(children),
        *(section for part in parts for section in part.sections()),
        *_left_out(execution, timeline.steps),
    ]
    return "\n\n".join(sections) + "\n"


def _facts(execution: Execution, states: Sequence[BudgetState]) -> Iterator[tuple[str, object]]:
    yield "Execution", execution.id
    yield "Session", execution.session_id
    yield "Repeats", execution.origin_id
    yield "Started by", execution.parent_id
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
    yield "Overshoot", "; ".join(each.beyond for each in states if each.exceeded) or None
    yield "Cancelled by", execution.cancel_requested_by


def _result(execution: Execution) -> Iterator[str]:
    if execution.result is not None:
        yield "## Result"
        if execution.truncated:
            yield "**Cut off**: the model reached its token limit before the result was complete."
        yield block(execution.result)
    if execution.error_message:
        yield "## Error"
        code = inline(execution.error_code or "error")
        yield f"**{code}**: {inline(execution.error_message, 2_000)}"
        traceback = (execution.error_details or {}).get("traceback")
        if traceback:
            yield fenced(str(traceback))
    yield "## Variables"
    yield block(execution.variables)


def _children(children: Sequence[Execution]) -> Iterator[str]:
    if not children:
        return
    yield "## Executions that it started"
    rows: list[Sequence[object]] = [
        (
            each.id,
            each.task_name,
            each.status,
            "" if each.duration_seconds is None else f"{each.duration_seconds:.1f} s",
            f"{each.input_tokens} in, {each.output_tokens} out",
            dollars(each.cost) if each.cost else "",
        )
        for each in children
    ]
    heads = ("execution", "task", "status", "duration", "tokens", "US dollars")
    yield table(heads, rows)


class _Timeline:
    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, event: Event) -> None:
        if len(self._lines) == _MOST_STEPS:
            return
        line = f"{event.seq}. {event.at.astimezone(UTC):%H:%M:%S} **{inline(event.type)}**"
        if event.data and event.type is not EventType.MESSAGE:
            line += f" {inline(short(event.data, _SHORT))}"
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


_LONGEST = 1_000_000
"""Limit of the conversation in characters."""
_SAID = frozenset({EventType.MESSAGE, EventType.TOOL_CALL, EventType.TOOL_RESULT})


class _Conversation:
    """Collects the conversation while the log is read."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._left_out = 0

    def add(self, event: Event) -> None:
        if event.type not in _SAID:
            return
        if self._length > _LONGEST:
            self._left_out += 1
            return
        part = _part(event)
        self._length += len(part)
        self._parts.append(part)

    def sections(self) -> Iterator[str]:
        if self._parts:
            yield "## Conversation"
            yield from self._parts
        if self._left_out:
            yield f"*{self._left_out:,} more messages and tool calls are in the events.*"


def _tool_of(data: JsonObject) -> str:
    """Return the name of the tool of a call or a result; agents use different keys."""
    return str(data.get("tool") or data.get("name") or "a tool")


def _part(event: Event) -> str:
    data = event.data
    if event.type is EventType.MESSAGE:
        parts = [f"### {inline(str(data.get('role', 'message')))}", block(data.get("content", ""))]
    elif event.type is EventType.TOOL_CALL:
        parts = [f"### Calls {inline(_tool_of(data))}", block(data.get("arguments", data))]
    else:
        outcome = "failed" if data.get("failed") else "answers"
        took = f" after {data['ms']} ms" if isinstance(data.get("ms"), int | float) else ""
        parts = [f"### {inline(_tool_of(data))} {outcome}{took}", block(data.get("content", data))]
    if clipped := data.get("clipped"):  # a number, unless the agent emits events of its own
        cut = counted(clipped, "character") if isinstance(clipped, int) else inline(str(clipped))
        parts.append(f"*{cut} cut off when it was stored.*")
    return "\n\n".join(parts)


class _ToolCalls:
    """Collects the tool calls while the log is read, each with its result."""

    def __init__(self) -> None:
        self._rows: list[list[object]] = []
        self._unanswered: dict[str, list[object]] = {}
        self._count = 0

    def add(self, event: Event) -> None:
        data = event.data
        if event.type is EventType.TOOL_CALL:
            self._count += 1
            if len(self._rows) < _MOST_ROWS:
                arguments = short(data.get("arguments", {}), _SHORT_ARGUMENTS)
                row = [event.seq, _tool_of(data), arguments, "", ""]
                self._rows.append(row)
                if data.get("id") is not None:
                    self._unanswered[str(data["id"])] = row
        elif event.type is EventType.TOOL_RESULT:
            answered = self._unanswered.pop(str(data.get("id")), None)
            if answered is not None:
                answered[3:] = [data.get("ms", ""), "failed" if data.get("failed") else "ok"]

    def sections(self) -> Iterator[str]:
        if self._rows:
            yield "## Tool calls"
            heads = ("event", "tool", "arguments", "ms", "outcome")
            yield from bounded_table(heads, self._rows, self._count)


class _ModelCalls:
    """Collects the model calls while the log is read, and their sums by model."""

    def __init__(self) -> None:
        self._rows: list[tuple[object, ...]] = []
        self._by_model: dict[str, _Sum] = {}
        self._all = _Sum()

    def add(self, event: Event) -> None:
        if event.type is not EventType.MODEL_CALL:
            return
        data = event.data
        model = f"{data.get('provider', '')}/{data.get('model', '')}"
        self._by_model.setdefault(model, _Sum()).add(data)
        self._all.add(data)
        if len(self._rows) < _MOST_ROWS:
            self._rows.append(
                (
                    event.seq,
                    model,
                    *(data.get(name, "") for name in _TOKENS),
                    data.get("latency_ms", ""),
                    data.get("finish_reason") or "",
                    data.get("cost") or "unknown",
                )
            )

    def sections(self) -> Iterator[str]:
        if not self._rows:
            return
        yield "## Model calls"
        sums = [each.cells(model) for model, each in self._by_model.items()]
        if len(sums) > 1:
            sums.append(self._all.cells("all"))
        yield table(("model", "calls", "tokens in", "out", "cached", "US dollars"), sums)
        heads = ("event", "model", "tokens in", "out", "cached", "ms", "ended", "US dollars")
        yield from bounded_table(heads, self._rows, self._all.calls)


_TOKENS = ("input_tokens", "output_tokens", "cached_tokens")


@dataclass(slots=True)
class _Sum:
    calls: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_TOKENS, 0))
    cost: Decimal = Decimal(0)
    unpriced: int = 0

    def add(self, data: JsonObject) -> None:
        self.calls += 1
        for name in _TOKENS:
            self.tokens[name] += int(data.get(name) or 0)
        if data.get("cost") is None:
            self.unpriced += 1
        else:
            self.cost += Decimal(str(data["cost"]))

    def cells(self, name: str) -> tuple[object, ...]:
        cost = dollars(self.cost) if self.unpriced < self.calls else "unknown"
        if self.unpriced and self.cost:
            cost += f" and {self.unpriced} without a price"
        return (name, self.calls, *self.tokens.values(), cost)


def _questions(approvals: Sequence[Approval]) -> Iterator[str]:
    if approvals:
        yield "## Approvals"
        rows = [(a.created_at, a.kind, a.title, _answer(a), a.answered_by or "") for a in approvals]
        yield table(("asked", "kind", "question", "answer", "by"), rows)


def _answer(approval: Approval) -> str:
    if approval.status in {ApprovalStatus.OPEN, ApprovalStatus.WITHDRAWN}:
        return approval.status.value
    answer = "approved" if approval.approved else "denied"
    if approval.status is ApprovalStatus.EXPIRED:
        answer = f"nobody, so {answer}"
    if approval.value is not None:
        answer += f": {short(approval.value, _SHORT)}"
    return f"{answer} ({approval.note})" if approval.note else answer


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
"""Allows a page only its own style. The page contains the policy too, for use as a file."""

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
    """Return the HTML page of a report made by `markdown`.

    Reports have no links, images or HTML, so Markdown for them is not rendered.
    """
    from markdown_it import MarkdownIt  # every process imports this page, few render HTML

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.disable(["link", "image", "autolink", "html_inline", "html_block", "reference"])
    return _PAGE.format(
        policy=escape(CONTENT_SECURITY_POLICY, quote=True).replace("&#x27;", "'"),
        title=escape(title),
        style=_STYLE,
        body=reader.render(markdown),
    )
