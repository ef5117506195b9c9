"""The protocol between worker and child process: JSON lines of bounded length."""

from decimal import Decimal
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from celeriac.domain.agents import ApprovalPolicy
from celeriac.domain.approvals import (
    MAX_EXPIRES_SECONDS,
    Answer,
    OnExpiry,
    Question,
    QuestionKind,
)
from celeriac.domain.base import Word
from celeriac.domain.errors import ChildProtocolError
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.steps import MAX_CHILDREN, NewChildren, StepKind
from celeriac.domain.tasks import Priority
from celeriac.domain.usage import MAX_COST, MAX_COUNT, ModelCall
from celeriac.domain.workflows.model import MAX_ITEMS
from celeriac.kit.json_types import (
    MAX_DEPTH,
    JsonObject,
    dumps,
    is_deeper,
    loads,
    refuse_big_integers,
    storable_text,
)
from celeriac.kit.validation import first_fault
from celeriac.kit.words import counted
from celeriac.services.time_limits import TimeLimits

MAX_LINE_BYTES = 16 * 1024 * 1024
"""The longest message of either side, such as a job or a result, without its newline."""

MAX_NOTE_BYTES = 256 * 1024
"""The longest message other than results; a thousand of them may wait to be stored."""

_SHOWN = 200
_ENVELOPE = 2
"""Levels of nesting that a message adds to the agent's data."""

Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EventMessage(_Message):
    """An event for the execution's log."""

    type: Literal["event"] = "event"
    kind: Literal[
        EventType.MESSAGE, EventType.TOOL_CALL, EventType.TOOL_RESULT, EventType.CUSTOM
    ] = EventType.CUSTOM
    data: dict[str, Any] = {}


class ProgressMessage(_Message):
    """How much of the work is done."""

    type: Literal["progress"] = "progress"
    done: Finite
    total: Finite | None = None
    note: str = ""


class DeltaMessage(_Message):
    """A piece of streaming output; shown to clients that watch, never stored."""

    type: Literal["delta"] = "delta"
    data: dict[str, Any]


class AdmitMessage(_Message):
    """A request to make a model call; the child makes it after the reply `admitted`."""

    type: Literal["admit"] = "admit"
    id: str
    """Identifies the request; the call's `usage` or `release` names it as `admission`."""
    provider: str
    model: str
    input_tokens: Count
    """Upper estimate of the input, as that of the output."""
    output_tokens: Count
    least_input_tokens: Count | None = None
    """Lower estimate of the input. Set by children that apply `output_tokens` of the reply."""


class ReleaseMessage(_Message):
    """An admitted model call was not made: it was refused, or failed before it began."""

    type: Literal["release"] = "release"
    admission: str


class UsageMessage(_Message):
    """One model call that the child has made."""

    type: Literal["usage"] = "usage"
    admission: str | None = None
    """The `id` of the call's `admit` message, if there was one."""
    provider: str
    model: str
    input_tokens: Count
    output_tokens: Count
    cached_tokens: Count = 0
    latency_ms: Count = 0
    finish_reason: str | None = None
    cost: Annotated[Decimal, Field(ge=0, lt=MAX_COST)] | None = None

    def model_call(self) -> ModelCall:
        """Return the call to charge."""
        return ModelCall(**self.model_dump(exclude={"type", "admission"}))


Path = Annotated[str, Field(max_length=200, pattern=r"^\d+(\.\d+)*$")] | None
"""The place of a durable call in the code; None: its name identifies it."""
Name = Annotated[str, Field(min_length=1, max_length=220), AfterValidator(storable_text)]

_FIRST_YEAR, _LAST_YEAR = 1970, 9000
"""Of a time to sleep until: the later ones of those that PostgreSQL stores can't be read back."""


class _DurableCall(_Message):
    id: str = ""
    """Identifies the call; the reply has the same."""
    path: Path = None
    name: Name


class StepMessage(_DurableCall):
    """A step begins. The reply `step` has its `state`: if that is `new`, it is to be done."""

    type: Literal["step"] = "step"


class StepError(_Message):
    """The last error of a step."""

    type: str = "Error"
    message: str = ""
    code: str = "agent_failed"
    retryable: bool = True


class StepDoneMessage(_DurableCall):
    """A step was done, or failed for the last time. After the reply `stored` it is stored."""

    type: Literal["step_done"] = "step_done"
    value: Any = None
    error: StepError | None = None
    tries: Annotated[int, Field(ge=1, le=1_000_000)] = 1


class SleepMessage(_DurableCall):
    """Wait for `seconds`, or until a time. The reply is `slept` or `park`."""

    type: Literal["sleep"] = "sleep"
    seconds: Annotated[float, Field(ge=0, le=MAX_EXPIRES_SECONDS)] | None = None
    until: AwareDatetime | None = None

    @model_validator(mode="after")
    def _needs_one(self) -> Self:
        if (self.seconds is None) == (self.until is None):
            raise ValueError("sleep needs either seconds or until")
        if self.until is not None and not _FIRST_YEAR <= self.until.year <= _LAST_YEAR:
            raise ValueError(f"until needs a year from {_FIRST_YEAR} to {_LAST_YEAR}")
        return self


class RunMessage(_DurableCall):
    """Run executions of a task, one for each of `items`. The reply is `ran` or `park`."""

    type: Literal["run"] = "run"
    kind: Literal[StepKind.RUN, StepKind.MAP] = StepKind.RUN
    task: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(storable_text)]
    items: list[dict[str, Any]]
    parallel: Annotated[int, Field(ge=1, le=MAX_CHILDREN)] | None = None
    keep_errors: bool = False
    queue: Word | None = None
    priority: Literal["low", "normal", "high", "critical"] | None = None

    def children(self) -> NewChildren:
        """Return the executions to run."""
        return NewChildren(
            task=self.task,
            places=range(len(self.items)),
            variables=self.items,
            queue=self.queue,
            priority=None if self.priority is None else Priority.parse(self.priority),
            parallel=self.parallel,
        )


DurableCall = StepMessage | StepDoneMessage | SleepMessage | RunMessage


class ResultsMessage(_Message):
    """Read results of a step of the workflow's run. The reply `results` has a page of them."""

    type: Literal["results"] = "results"
    id: str = ""
    """Identifies the request; the reply has the same."""
    step: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(storable_text)]
    run: UUID | None = None
    """A run above that of the execution; None: its own."""
    after: Annotated[int, Field(ge=-1, le=MAX_ITEMS)] = -1
    """The number of the last item that was read."""


class LabelMessage(_Message):
    """Change labels of the execution. The reply is `labels`, or `refused` with the reason."""

    type: Literal["label"] = "label"
    id: str = ""
    """Identifies the request; the reply has the same."""
    labels: dict[str, Any] = {}
    """Values by keys; null removes a label."""


Request = DurableCall | ResultsMessage | LabelMessage
"""A message with a reply that has the same `id`."""


class ParkMessage(_Message):
    """The last message of a child, in reply to `park`.

    With `more` it continues as soon as one of the executions that it waits for has ended.
    """

    type: Literal["park"] = "park"
    more: bool = False


class AskMessage(_Message):
    """A question to a person; the reply `answer` has the same `key`.

    A message with the same key, in this attempt or a later one, is the same question. The last
    three fields default to the agent's `approvals`.
    """

    type: Literal["ask"] = "ask"
    key: str = Field(min_length=1, max_length=200)
    path: Path = None
    name: Name = "ask"
    kind: Literal[QuestionKind.TOOL, QuestionKind.QUESTION, QuestionKind.FORM]
    title: str = Field(min_length=1)
    tool: str | None = None
    arguments: dict[str, Any] = {}
    answer_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    """JSON schema of the answer's value, for a form."""
    expires_seconds: Annotated[float, Field(ge=1, le=31_536_000)] | None = None
    on_expiry: OnExpiry | None = None
    default: Any = None

    def question(self, policy: ApprovalPolicy) -> Question:
        """Return the question, with the defaults of `policy`."""
        return Question(
            key=self.key,
            kind=self.kind,
            title=self.title,
            tool=self.tool,
            arguments=self.arguments,
            schema=self.answer_schema,
            expires_seconds=self.expires_seconds or policy.expires_seconds,
            on_expiry=self.on_expiry or policy.on_expiry,
            default=self.default,
        )


def time_left(limits: TimeLimits) -> JsonObject:
    """Return the hard limit as messages have it; open questions postpone it."""
    return {"seconds_left": max(limits.hard_left, 0.0), "deadline": limits.deadline}


def answer_message(key: str, answer: Answer, limits: TimeLimits) -> JsonObject:
    """Return the reply to a question, with the current time limit."""
    return {
        **time_left(limits),
        "type": "answer",
        "key": key,
        "approved": answer.approved,
        "value": answer.value,
        "note": answer.note,
        "by": answer.by,
    }


class LogMessage(_Message):
    """A line of the child's log, or (`logger="stderr"`) of its stderr."""

    type: Literal["log"] = "log"
    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    message: str
    logger: str = ""
    fields: dict[str, Any] = {}


class ResultMessage(_Message):
    """The result of the work."""

    type: Literal["result"] = "result"
    value: Any = None
    truncated: bool = False
    """Whether it is a text that a model's token limit cut off."""


class ErrorReport(_Message):
    """An exception in the child."""

    type: str
    message: str
    traceback: str = ""
    code: str | None = None
    """A code of `domain/errors` or of the agent; None for other exceptions."""
    retryable: bool = True
    retry_after: Finite | None = None
    details: dict[str, Any] = {}


class ErrorMessage(_Message):
    """The work failed."""

    type: Literal["error"] = "error"
    error: ErrorReport


ChildMessage = Annotated[
    EventMessage
    | ProgressMessage
    | DeltaMessage
    | AdmitMessage
    | ReleaseMessage
    | UsageMessage
    | AskMessage
    | StepMessage
    | StepDoneMessage
    | SleepMessage
    | RunMessage
    | ResultsMessage
    | LabelMessage
    | ParkMessage
    | LogMessage
    | ResultMessage
    | ErrorMessage,
    Field(discriminator="type"),
]

_LONG = (ResultMessage, ErrorMessage, LogMessage, StepDoneMessage, RunMessage)
"""Messages that may be longer: sent once, or clipped later."""

MESSAGE: TypeAdapter[ChildMessage] = TypeAdapter(ChildMessage)


def parse_line(line: bytes) -> ChildMessage:
    """Return the message in one line of a child's stdout.

    Raises ChildProtocolError that names the fault and shows the start of the line.
    """
    try:
        message = MESSAGE.validate_json(line)
    except ValidationError as error:
        place, fault = first_fault(error)
        if "recursion limit" in fault:
            raise ChildProtocolError(
                "The child process wrote a message that is nested deeper than "
                f"{MAX_DEPTH} levels; flatten it."
            ) from None
        shown = line[:_SHOWN].decode(errors="backslashreplace").rstrip()
        raise ChildProtocolError(
            f"The child process wrote a line to its stdout that is no message of the protocol "
            f"({f'{place}: ' if place else ''}{fault}): {shown!r}. Write other output to "
            "stderr."
        ) from None
    if not isinstance(message, (ResultMessage, ErrorMessage)):
        _refuse_unstorable(line, message.type)
    if len(line) > MAX_NOTE_BYTES and not isinstance(message, _LONG):
        raise ChildProtocolError(
            f"The child process wrote a message of the type {message.type} with {len(line):,} "
            f"bytes; the limit is {MAX_NOTE_BYTES:,}. Put larger data into a file of the working "
            "directory, or into the result."
        )
    return message


def _refuse_unstorable(line: bytes, kind: str) -> None:
    """Refuse a message whose data can't be stored unchanged; results are checked later."""
    try:
        refuse_big_integers(line)
        value = loads(line)
    except (ValueError, TypeError) as error:
        raise ChildProtocolError(
            f"The child process wrote a message of the type {kind} that can't be stored: {error}."
        ) from None
    if line.count(b"{") + line.count(b"[") > MAX_DEPTH and is_deeper(value, MAX_DEPTH + _ENVELOPE):
        raise ChildProtocolError(
            f"The child process wrote a message of the type {kind} that is nested deeper than "
            f"{MAX_DEPTH} levels; flatten it."
        )


def encode_line(message: JsonObject) -> bytes:
    """Return a message to a child as one line; raises ChildProtocolError if it is too long."""
    line = dumps(message).encode()
    if len(line) > MAX_LINE_BYTES:
        is_job = message["type"] == "start"
        what = "The job" if is_job else f"The reply {message['type']!r}"
        cure = (
            "Make its variables smaller, or pass them by reference."
            if is_job
            else "Have the executions that it waits for return less, or put large data into files."
        )
        raise ChildProtocolError(
            f"{what} has {counted(len(line), 'byte')} as JSON; the limit for child processes is "
            f"{MAX_LINE_BYTES:,}. {cure}"
        )
    return line + b"\n"


MAX_LINE = 8_192
_ELLIPSIS = "…"
_LONGEST_CHARACTER = 4
_TOP_BITS, _CONTINUES = 0b1100_0000, 0b1000_0000
"""How bytes of UTF-8 begin that are not the first one of their character."""


class LineSplitter:
    """Splits bytes into lines; a line of more than `MAX_LINE` bytes comes in pieces.

    Pieces have an ellipsis where they were cut: masking looks for rests of values there.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._continues = False

    def feed(self, chunk: bytes) -> list[str]:
        """Return the lines that `chunk` completes, decoded, without empty lines."""
        found = list[str]()
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if last := self._cut(line.rstrip(b"\r"), found):
                found.append(self._shown(last))
            self._continues = False
        self._rest = self._cut(self._rest, found)
        return found

    def rest(self) -> list[str]:
        """Return the last, unfinished line."""
        return self.feed(b"\n")

    def _cut(self, line: bytes, found: list[str]) -> bytes:
        """Add the pieces of a long line to `found`; return what is left of it."""
        while len(line) > MAX_LINE:
            end = _whole_characters(line, MAX_LINE)
            found.append(self._shown(line[:end]) + _ELLIPSIS)
            self._continues = True
            line = line[end:]
        return line

    def _shown(self, piece: bytes) -> str:
        text = piece.decode(errors="backslashreplace").replace("\0", "\\x00")
        return _ELLIPSIS + text if self._continues else text


def _whole_characters(line: bytes, end: int) -> int:
    """Return where to cut, at `end` or before it, so that no character of UTF-8 is divided."""
    for place in range(end, end - _LONGEST_CHARACTER, -1):
        if line[place] & _TOP_BITS != _CONTINUES:
            return place
    return end
