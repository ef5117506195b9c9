"""The report of an execution, as Markdown. Whatever people or models wrote stays plain text."""

import re
from collections.abc import Iterable, Iterator, Sequence

import orjson

from celeriac.domain.events import Event, EventType
from celeriac.domain.execution import Execution
from celeriac.domain.task import Priority
from celeriac.kit.jsontypes import JsonValue

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~&])")
_BACKTICKS = re.compile(r"`+")
_SHORT = 200


def markdown(execution: Execution, events: Sequence[Event]) -> str:
    """Return the report of a finished execution with `events` as its log, in order."""
    sections = [
        f"# {_inline(execution.task_name)}: {execution.status}",
        "\n".join(_facts(execution)),
        *_result(execution),
        *_conversation(events),
        "## Timeline",
        "\n".join(_timeline(events)),
    ]
    return "\n\n".join(sections) + "\n"


def _facts(execution: Execution) -> Iterator[str]:
    facts: list[tuple[str, object]] = [
        ("Execution", execution.id),
        ("Trigger", execution.trigger_type),
        ("Priority", Priority(execution.priority).label),
        ("Created", execution.created_at),
        ("Started", execution.started_at),
        ("Completed", execution.completed_at),
        ("Duration", f"{execution.duration_seconds or 0.0:.1f} s"),
        ("Attempts", execution.attempt),
        ("Worker", execution.worker_hostname),
        ("Messages", execution.message_count),
        ("Tool calls", execution.tool_call_count),
        ("Model calls", execution.model_call_count),
        ("Tokens", f"{execution.input_tokens} in, {execution.output_tokens} out"),
        ("Cost", f"{execution.cost:.4f} US dollars" if execution.cost else None),
        ("Cancelled by", execution.cancel_requested_by),
    ]
    for name, value in facts:
        if value is not None:
            yield f"- **{name}**: {_inline(str(value))}"


def _result(execution: Execution) -> Iterator[str]:
    yield "## Variables"
    yield _block(execution.variables)
    if execution.error_message:
        yield "## Error"
        yield f"**{_inline(execution.error_code or 'error')}**: {_inline(execution.error_message)}"
        traceback = (execution.error_details or {}).get("traceback")
        if traceback:
            yield _fenced(str(traceback))
    if execution.result is not None:
        yield "## Result"
        yield _block(execution.result)


def _conversation(events: Iterable[Event]) -> Iterator[str]:
    messages = [event for event in events if event.type is EventType.MESSAGE]
    if messages:
        yield "## Conversation"
    for event in messages:
        yield f"### {_inline(str(event.data.get('role', 'message')))}"
        yield _fenced(str(event.data.get("content", "")))


def _timeline(events: Iterable[Event]) -> Iterator[str]:
    for event in events:
        line = f"{event.seq}. {event.at:%H:%M:%S.%f} **{_inline(event.type)}**"
        if event.data and event.type is not EventType.MESSAGE:
            line += f" {_inline(_short(event.data))}"
        yield line


def _short(value: JsonValue) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


def _block(value: JsonValue) -> str:
    if isinstance(value, str):
        return _fenced(value)
    return _fenced(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode(), language="json")


def _fenced(text: str, language: str = "") -> str:
    longest = max(map(len, _BACKTICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _inline(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
