"""Events in one line of words each."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celeriac.cli.failures import failure_text
from celeriac.cli.formatting import duration, plain, short
from celeriac.cli.ids import short_id
from celeriac.domain.events import EventType
from celeriac.kit.jsontypes import dumps

if TYPE_CHECKING:
    from celeriac.wire import Event

_LONGEST = 160

Data = Mapping[str, Any]


def describe(event: "Event") -> str:
    """Return what `event` says, on one line."""
    words = _WORDS.get(event.type)
    said = words(event.data) if words else plain(event.data) if event.data else ""
    if event.type is EventType.STARTED:
        said = f"attempt {event.attempt} on {event.data.get('worker', 'a worker')}"
    return short(said, _LONGEST)


def _created(data: Data) -> str:
    return f"by {data.get('by', '?')} ({data.get('trigger_type', 'manual')})"


def _completed(data: Data) -> str:
    return "cut off by the model's token limit" if data.get("truncated") else ""


def _failed(data: Data) -> str:
    code = str(data.get("code", "error"))
    return f"{code}: {failure_text(code, data.get('message'), data.get('error_type'))}"


def _retry(data: Data) -> str:
    delay = data.get("delay")
    when = f"in {duration(delay)} " if isinstance(delay, int | float) else ""
    return f"{when}after {_failed(data)}"


def _progress(data: Data) -> str:
    total = data.get("total")
    part = f"{data.get('done', 0):g}" + (f" of {total:g}" if total else "")
    return f"{part} {data.get('note') or ''}".strip()


def _waiting(data: Data) -> str:
    return f"for {str(data.get('reason', '?')).replace('_', ' ')}: {data.get('note', '')}"


def _asked(data: Data) -> str:
    # the command first: a long title is cut
    approval = short_id(str(data.get("approval_id", "?")))
    said = f"celeriac approvals answer {approval}: {data.get('title', '')}"
    arguments = _arguments(data.get("arguments"))
    return f"{said} ({arguments})" if arguments else said


def _answered(data: Data) -> str:
    said = "approved" if data.get("approved") else "refused"
    return f"{said} by {data.get('by', '?')}"


def _tool_call(data: Data) -> str:
    if not _tool(data):
        return plain(data) if data else ""
    return f"{_tool(data)}({_arguments(data.get('arguments'))})"


def _tool_result(data: Data) -> str:
    if not _tool(data):
        return plain(data) if data else ""
    said = "failed" if data.get("failed") else "answered"
    spent = data.get("ms")
    took = f" in {duration(spent / 1000)}" if isinstance(spent, int | float) else ""
    content = data.get("content")
    return f"{_tool(data)} {said}{took}" + (f": {plain(content)}" if content else "")


def _tool(data: Data) -> str:
    """Return the name of the tool, after its server's; empty where an agent names none."""
    return ".".join(str(data[name]) for name in ("server", "tool") if data.get(name))


def _arguments(arguments: object) -> str:
    """Return a call's arguments as `name=value`; long ones come as a text already."""
    if isinstance(arguments, Mapping):
        return ", ".join(f"{name}={dumps(value)}" for name, value in arguments.items())
    return "" if arguments is None else plain(arguments)


def _model_call(data: Data) -> str:
    read, written = data.get("input_tokens", 0), data.get("output_tokens", 0)
    seconds = data.get("latency_ms", 0) / 1000
    model = f"{data.get('provider', '?')}/{data.get('model', '?')}"
    return f"{model}: {read} → {written} tokens in {duration(seconds)}"


_WORDS: Mapping[EventType, Callable[[Data], str]] = {
    EventType.CREATED: _created,
    EventType.QUEUED: lambda data: f"in {data.get('queue', '?')}",
    EventType.UNQUEUED: lambda data: str(data.get("reason", "")),
    EventType.COMPLETED: _completed,
    EventType.FAILED: _failed,
    EventType.RETRY_SCHEDULED: _retry,
    EventType.HANDED_BACK: lambda _: "its worker shuts down",
    EventType.WORKER_LOST: lambda data: f"{data.get('worker')} no longer answers",
    EventType.WAITING: _waiting,
    EventType.APPROVAL_ASKED: _asked,
    EventType.APPROVAL_ANSWERED: _answered,
    EventType.CANCEL_REQUESTED: lambda data: f"by {data.get('by', '?')}",
    EventType.PROGRESS: _progress,
    EventType.MESSAGE: lambda data: f"{data.get('role', '?')}: {data.get('content', '')}",
    EventType.MODEL_CALL: _model_call,
    EventType.TOOL_CALL: _tool_call,
    EventType.TOOL_RESULT: _tool_result,
    EventType.LOG: lambda data: f"{data.get('level', 'info')}: {data.get('message', '')}",
    EventType.CUSTOM: lambda data: f"{data.get('name', '')} {plain(data.get('data', ''))}",
}
