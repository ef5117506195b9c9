"""A report as Markdown: the result first, then how it came to it."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC

from celeriac.domain.approval import Approval
from celeriac.domain.budget import Standing
from celeriac.domain.events import Event, EventType
from celeriac.domain.execution import Execution
from celeriac.domain.report import text
from celeriac.domain.report.calls import ModelCalls, ToolCalls
from celeriac.domain.report.conversation import Conversation
from celeriac.domain.report.questions import questions
from celeriac.domain.task import Priority
from celeriac.domain.usage import dollars

_MOST_STEPS = 2_000
_SHORT = 200


def markdown(
    execution: Execution,
    events: Iterable[Event],
    approvals: Sequence[Approval] = (),
    standings: Sequence[Standing] = (),
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


def _facts(execution: Execution, standings: Sequence[Standing]) -> Iterator[tuple[str, object]]:
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
