"""The view of a followed execution: progress, events, screen."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from celeriac.cli.core.ids import short_id
from celeriac.cli.core.output import clock, duration, plain, short, tokens
from celeriac.cli.executions.notes import failure_text
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.states import Status
from celeriac.kit.json_types import dumps
from celeriac.kit.text import printable
from celeriac.kit.words import counted

if TYPE_CHECKING:
    from celeriac.client import Delta
    from celeriac.logs.reading import LogLine
    from celeriac.wire import Event, Execution


KEPT_EVENTS = 200
_LONGEST_TEXT = 20_000

_STATUS_AFTER = {
    EventType.CREATED: Status.PENDING,
    EventType.QUEUED: Status.QUEUED,
    EventType.UNQUEUED: Status.PENDING,
    EventType.STARTED: Status.RUNNING,
    EventType.RETRY_SCHEDULED: Status.PENDING,
    EventType.HANDED_BACK: Status.PENDING,
    EventType.WAITING: Status.WAITING,
    EventType.RESUMED: Status.PENDING,
    EventType.COMPLETED: Status.COMPLETED,
    EventType.FAILED: Status.FAILED,
    EventType.CANCELLED: Status.CANCELLED,
}


@dataclass(slots=True)
class View:
    """The state of one execution, derived from its events. Times have a zone; tokens are counts."""

    execution_id: UUID
    task_name: str
    status: Status = Status.PENDING
    attempt: int = 0
    worker: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    done: float | None = None
    total: float | None = None
    note: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    text: str = ""
    """Live output of the current attempt; only the end if it is very long."""
    waits_for: str = ""
    """The reason why it waits without a worker."""
    questions: dict[str, str] = field(default_factory=dict)
    """Open questions to people, on one line each, by ids."""
    events: "deque[Event]" = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))

    @classmethod
    def of(cls, execution: "Execution") -> "View":
        """Return the view before the first event."""
        return cls(execution.id, execution.task_name)

    @property
    def ended(self) -> bool:
        """Whether no event can follow."""
        return self.status.terminal

    def apply(self, event: "Event") -> None:
        """Update the view with the next event."""
        self.events.append(event)
        self.status = _STATUS_AFTER.get(event.type, self.status)
        self.attempt = max(self.attempt, event.attempt)
        self._wait(event)
        if event.type is EventType.CREATED:
            self.created_at = event.at
        elif event.type is EventType.STARTED:
            self._start(event)
        elif event.type is EventType.PROGRESS:
            self._progress(event.data)
        elif event.type is EventType.MODEL_CALL:
            self.input_tokens += event.data.get("input_tokens", 0)
            self.output_tokens += event.data.get("output_tokens", 0)
        if self.ended:
            self.ended_at = event.at

    def add_output(self, delta: "Delta") -> str:
        """Append a piece of live output; return its text."""
        piece = str(delta.data.get("text") or "")
        self.text = (self.text + piece)[-_LONGEST_TEXT:]
        return piece

    def _wait(self, event: "Event") -> None:
        if event.type is EventType.WAITING:
            self.waits_for = str(event.data.get("note") or event.data.get("reason") or "")
        elif event.type is EventType.APPROVAL_ASKED:
            asked = short(_question(event.data), _LONGEST)
            self.questions[str(event.data.get("approval_id"))] = asked
        elif event.type is EventType.APPROVAL_ANSWERED:
            self.questions.pop(str(event.data.get("approval_id")), None)
        if self.status is not Status.WAITING:
            self.waits_for = ""
        if self.ended:
            self.questions.clear()

    def _start(self, event: "Event") -> None:
        self.worker = event.data.get("worker")
        self.started_at = self.started_at or event.at
        self.done = self.total = None
        self.note = self.text = ""

    def _progress(self, data: Mapping[str, object]) -> None:
        done, total = data.get("done"), data.get("total")
        self.done = done if isinstance(done, int | float) else None
        self.total = total if isinstance(total, int | float) else None
        self.note = str(data.get("note") or "")


_LONGEST = 160

Data = Mapping[str, Any]


def describe(event: "Event") -> str:
    """Return a description of `event`, on one line."""
    words = _WORDS.get(event.type)
    said = words(event.data) if words else plain(event.data) if event.data else ""
    if event.type is EventType.STARTED:
        said = f"attempt {event.attempt} on {event.data.get('worker', 'a worker')}"
    return short(said, _LONGEST)


def _failed(data: Data) -> str:
    code = str(data.get("code", "error"))
    return f"{code}: {failure_text(code, data.get('message'), data.get('error_type'))}"


def _retry(data: Data) -> str:
    delay = data.get("delay")
    when = f"in {duration(delay)} " if isinstance(delay, int | float) else ""
    return f"{when}after {_failed(data)}"


def _describe_progress(data: Data) -> str:
    total = data.get("total")
    part = f"{data.get('done', 0):g}" + (f" of {total:g}" if total else "")
    return f"{part} {data.get('note') or ''}".strip()


def _asked(data: Data) -> str:
    # the command first: a long title is cut
    approval = short_id(str(data.get("approval_id", "?")))
    return f"celeriac approvals answer {approval}: {_question(data)}"


def _question(data: Data) -> str:
    """Return what is asked: the title, and the arguments of the call that it is about."""
    arguments = _arguments(data.get("arguments"))
    return f"{data.get('title', '')} ({arguments})" if arguments else str(data.get("title") or "")


def _labelled(data: Data) -> str:
    before, after = data.get("from", {}), data.get("to", {})
    set_ = [f"{key}={value}" for key, value in after.items() if before.get(key) != value]
    return ", ".join([*set_, *(f"without {key}" for key in before if key not in after)])


def _step(data: Data) -> str:
    """Return a step of a durable function, as `run judge_lead`, and its error if it failed."""
    if not data.get("name"):
        return plain(data) if data else ""
    tries = data.get("tries")
    again = (
        f" after {counted(tries, 'try', 'tries')}" if isinstance(tries, int) and tries > 1 else ""
    )
    error = f": {data['code']}: {data.get('message', '')}" if data.get("code") else ""
    return f"{data.get('kind', 'step')} {data['name']}{again}{error}"


def _network(data: Data) -> str:
    reached, refused = data.get("reached") or [], data.get("refused") or []
    sent = sum(each.get("sent", 0) for each in reached)
    received = sum(each.get("received", 0) for each in reached)
    times = sum(each.get("times", 0) for each in refused)
    return (
        f"{counted(len(reached), 'destination')}, {sent:,} bytes sent, {received:,} received; "
        f"{counted(times, 'connection')} refused"
    )


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
    """Return the names of the server and the tool; empty without them."""
    return ".".join(str(data[name]) for name in ("server", "tool") if data.get(name))


def _arguments(arguments: object) -> str:
    """Return a call's arguments as `name=value`; long ones are stored as text."""
    if isinstance(arguments, Mapping):
        return ", ".join(f"{name}={dumps(value)}" for name, value in arguments.items())
    return "" if arguments is None else plain(arguments)


def _model_call(data: Data) -> str:
    read, written = data.get("input_tokens", 0), data.get("output_tokens", 0)
    seconds = data.get("latency_ms", 0) / 1000
    model = f"{data.get('provider', '?')}/{data.get('model', '?')}"
    return f"{model}: {read} → {written} tokens in {duration(seconds)}"


def _checkout(data: Data) -> str:
    ref = data.get("ref") or "the default branch"
    kept = "" if data.get("new") else ", as an earlier attempt left it"
    return f"{data.get('git', '?')} at {ref} ({str(data.get('sha', '?'))[:12]}){kept}"


def _verify_failed(data: Data) -> str:
    """Return what becomes of the agent first, then the command and the last line of its output."""
    rounds = data.get("rounds", "?")
    sent = f"the agent is sent back, round {data.get('round', '?')} of {rounds}"
    what = sent if data.get("sent_back") else f"after {rounds} of {rounds} rounds"
    end = str(data.get("output") or "").rstrip().splitlines()[-1:]
    last = f": {end[0].strip()}" if end else ""
    return f"{what}; `{data.get('command', '?')}` exited with {data.get('exit_code', '?')}{last}"


def _secret_used(data: Data) -> str:
    """Return a secret's name and version, and where the attempt uses it."""
    place = next(
        (f"{what} {data[what]}" for what in ("variable", "host", "repository") if data.get(what)),
        "",
    )
    used = f" for the {place}" if place else ""
    until = f", valid until {data['expires_at']}" if data.get("expires_at") else ""
    return f"{data.get('secret', '?')} (version {data.get('version', '?')}){used}{until}"


def _change(data: Data) -> str:
    if not data.get("branch"):
        return "nothing was changed"
    files = counted(int(data.get("files", 0)), "file")
    lines = f"+{data.get('insertions', 0)} -{data.get('deletions', 0)}"
    return f"{files} ({lines}) on {data['branch']}; {data.get('patch') or 'the patch is too large'}"


def _pushed(data: Data) -> str:
    kept = "" if data.get("new") else ", as an earlier attempt pushed it"
    return f"{data.get('branch')} ({str(data.get('sha', '?'))[:12]}) to {data.get('url')}{kept}"


def _pull_request(data: Data) -> str:
    kept = "" if data.get("new") else ", which was there"
    return f"{data.get('url')} for {data.get('base')}{kept}"


_WORDS: Mapping[EventType, Callable[[Data], str]] = {
    EventType.CREATED: lambda data: (
        f"by {data.get('by', '?')} ({data.get('trigger_type', 'manual')})"
    ),
    EventType.QUEUED: lambda data: f"in {data.get('queue', '?')}",
    EventType.UNQUEUED: lambda data: str(data.get("reason", "")),
    EventType.COMPLETED: lambda data: (
        "cut off by the model's token limit" if data.get("truncated") else ""
    ),
    EventType.FAILED: _failed,
    EventType.RETRY_SCHEDULED: _retry,
    EventType.HANDED_BACK: lambda _: "its worker shuts down",
    EventType.WORKER_LOST: lambda data: f"{data.get('worker')} no longer answers",
    EventType.WAITING: lambda data: (
        f"for {str(data.get('reason', '?')).replace('_', ' ')}: {data.get('note', '')}"
    ),
    EventType.APPROVAL_ASKED: _asked,
    EventType.APPROVAL_ANSWERED: lambda data: (
        f"{'approved' if data.get('approved') else 'denied'} by {data.get('by', '?')}"
    ),
    EventType.STEP_COMPLETED: _step,
    EventType.STEP_FAILED: _step,
    EventType.CANCEL_REQUESTED: lambda data: f"by {data.get('by', '?')}",
    EventType.PROGRESS: _describe_progress,
    EventType.LABELLED: _labelled,
    EventType.MESSAGE: lambda data: f"{data.get('role', '?')}: {data.get('content', '')}",
    EventType.MODEL_CALL: _model_call,
    EventType.CHECKOUT: _checkout,
    EventType.VERIFY_FAILED: _verify_failed,
    EventType.CHANGE: _change,
    EventType.SECRET_USED: _secret_used,
    EventType.PUSHED: _pushed,
    EventType.PULL_REQUEST: _pull_request,
    EventType.TOOL_CALL: _tool_call,
    EventType.TOOL_RESULT: _tool_result,
    EventType.NETWORK_REFUSED: lambda data: (
        f"{data.get('host')}:{data.get('port')}: {data.get('reason', '')}"
    ),
    EventType.NETWORK_USED: _network,
    EventType.TOOL_DENIED: lambda data: f"{_tool(data)}: {data.get('reason', '')}",
    EventType.LOG: lambda data: f"{data.get('level', 'info')}: {data.get('message', '')}",
    EventType.CUSTOM: lambda data: f"{data.get('name', '')} {plain(data.get('data', ''))}",
}


STYLES = {
    Status.PENDING: "yellow",
    Status.QUEUED: "yellow",
    Status.RUNNING: "cyan",
    Status.WAITING: "magenta",
    Status.COMPLETED: "green",
    Status.FAILED: "red",
    Status.CANCELLED: "red",
}
_EVENTS = 8
_LINES = 6
_QUESTIONS = 3
_TEXT_LINES = 8
_BAR_WIDTH = 40
_CLOCK_WIDTH = 12
_NAME_WIDTH = max(len(kind) for kind in EventType)
_SERVICE_WIDTH = 6


def render(view: "View", lines: Sequence["LogLine"]) -> RenderableType:
    """Return the whole screen: facts, progress, live text, last events, last log lines."""
    parts: list[RenderableType] = [_facts(view), _progress(view)]
    if view.waits_for or view.questions:
        parts.append(_waiting(view))
    if view.text and not view.ended:
        tail = "\n".join(view.text.splitlines()[-_TEXT_LINES:])
        parts.append(Panel(Text(printable(tail)), title="output", title_align="left"))
    parts.append(_events(view))
    if lines:
        parts.append(_log(lines))
    title = f"{printable(view.task_name)} · {view.execution_id}"
    return Panel(Group(*parts), title=title, title_align="left")


def _facts(view: "View") -> RenderableType:
    status = Text(view.status.value, style=f"bold {STYLES[view.status]}")
    grid = Table.grid(padding=(0, 3))
    waited = _between(view.created_at, view.started_at or view.ended_at)
    ran = _between(view.started_at, view.ended_at)
    grid.add_row(
        status,
        Text(f"attempt {view.attempt}"),
        Text(f"waited {duration(waited)}"),
        Text(f"ran {duration(ran)}" if view.started_at else "not started"),
        Text(f"tokens {tokens(view.input_tokens, view.output_tokens)}"),
    )
    worker = Text(f"worker {printable(view.worker or '-')}", style="dim")
    return Group(grid, worker)


def _waiting(view: "View") -> RenderableType:
    """The reason for waiting, and the commands that answer open questions."""
    lines = [Text(printable(f"waits: {view.waits_for}"), style="bold magenta")]
    for approval_id, title in list(view.questions.items())[:_QUESTIONS]:
        lines.append(Text(printable(f"asks: {title}"), style="magenta"))
        lines.append(Text(f"      celeriac approvals answer {short_id(printable(approval_id))}"))
    return Group(*(lines if view.waits_for else lines[1:]))


def _between(begin: datetime | None, end: datetime | None) -> float | None:
    return None if begin is None else ((end or datetime.now(UTC)) - begin).total_seconds()


def _progress(view: "View") -> RenderableType:
    """A bar that shows the progress, or pulses if the agent doesn't report a total."""
    known = view.done is not None and view.total
    if view.status is Status.COMPLETED:
        bar = ProgressBar(total=1, completed=1, width=_BAR_WIDTH)
    elif known:
        bar = ProgressBar(total=view.total, completed=view.done or 0, width=_BAR_WIDTH)
    else:
        running = view.status is Status.RUNNING
        bar = ProgressBar(total=None if running else 1, width=_BAR_WIDTH, pulse=running)
    part = f"{view.done:g} of {view.total:g}" if known else ""
    grid = Table.grid(padding=(0, 1))
    grid.add_row(bar, Text(printable(f"{part} {view.note}".strip())))
    return grid


def _events(view: "View") -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True, min_width=_CLOCK_WIDTH)
    grid.add_column(style="bold", no_wrap=True, min_width=_NAME_WIDTH)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for event in list(view.events)[-_EVENTS:]:
        grid.add_row(clock(event.at), event.type.value, Text(printable(describe(event))))
    return grid


def _log(lines: Sequence["LogLine"]) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, min_width=_CLOCK_WIDTH)
    grid.add_column(no_wrap=True, min_width=_SERVICE_WIDTH)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for line in list(lines)[-_LINES:]:
        grid.add_row(clock(line.at), line.service, printable(line.event), style="dim")
    return Panel(grid, title="log", title_align="left", border_style="dim")
