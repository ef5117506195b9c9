"""Why an execution has not ended yet: what must come to pass, in order (pure)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from celeriac.domain.executions.ageing import RAISED
from celeriac.domain.executions.limits import ExecutionLimit
from celeriac.domain.executions.model import Execution
from celeriac.domain.executions.pauses import Pause
from celeriac.domain.executions.states import Held, Status, WaitingFor
from celeriac.domain.limits import ExecutionSlot
from celeriac.domain.tasks import Priority
from celeriac.kit.words import counted

MOST_COUNTED = 1_000
"""Executions that are counted one by one; more are shown as this many or more."""


class ReasonCode(StrEnum):
    """What an execution waits for."""

    CANCELLATION = "cancellation"
    """Its cancellation is requested, and the worker stops it."""
    END = "end"
    """A worker runs it."""
    ANSWER = "answer"
    """A person must answer."""
    BUDGET = "budget"
    PROVIDER_LIMIT = "provider_limit"
    CHILDREN = "children"
    TIME = "time"
    DEBOUNCE = "debounce"
    """It waits for newer submissions with its key, which would replace it."""
    RETRY = "retry"
    LIMIT = "limit"
    """Others have the slots of one of its limits."""
    STEP_LIMIT = "step_limit"
    """The step of its workflow runs as many items as it may at once."""
    PARENT_LIMIT = "parent_limit"
    """Its parent runs as many children as it may at once."""
    PAUSE = "pause"
    """It is paused, or its task, queue or workspace or the whole system is."""
    WORKER = "worker"
    """No worker takes executions of its queue."""
    QUEUE = "queue"
    """Others of its queue come first, or take turns with it."""
    SLOT = "slot"
    """Its message is at the broker, and a worker must have a free slot."""
    EXPIRY = "expiry"
    """It is cancelled if it has not begun by then."""


class SubjectKind(StrEnum):
    """What kind of thing a reason names."""

    APPROVAL = "approval"
    EXECUTION = "execution"
    LIMIT = "limit"
    """A limit of the workspace."""
    PAUSE = "pause"
    WORKFLOW_RUN = "workflow_run"
    QUEUE = "queue"
    WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Subject:
    """What blocks, by its id or name."""

    kind: SubjectKind
    id: str


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that must come to pass. Times are in UTC."""

    code: ReasonCode
    text: str
    subject: Subject | None = None
    since: datetime | None = None
    """Since when it blocks, if that is known."""
    until: datetime | None = None
    """The next time at which it changes by itself."""
    count: int | None = None
    """How many come first, or how many run: counted up to `MOST_COUNTED`."""


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """A question that the execution has asked."""

    id: UUID
    title: str
    asked_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Debounced:
    """The key by which an execution is debounced, and how many it has replaced."""

    key: str
    replaced: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about an execution and its queue at one time."""

    execution: Execution
    questions: Sequence[OpenQuestion] = ()
    pauses: Sequence[Pause] = ()
    """Those that are about it, the widest first."""
    live_children: int = 0
    parallel: int | None = None
    """How many items of its step, or children of its parent, may run at once."""
    beside: int = 0
    """How many of these run, or may run, now."""
    raised_at: datetime | None = None
    """When waiting raises its priority next."""
    ahead: int = 0
    """Executions of its queue that come first: more urgent ones, and earlier ones of its owner."""
    sent: int = 0
    """Messages of its queue at the broker."""
    slots: int = 0
    """Of the live workers that take executions of its queue."""
    idle_listeners: int = 0
    """Live worker processes that listen to its queue and take nothing from it now."""
    limits: Sequence[ExecutionLimit] = ()
    """Its limits by key, if it waits for their slots."""
    debounced: Debounced | None = None
    last_listened_at: datetime | None = None
    """When a worker last listened to its queue, if none does now."""


@dataclass(frozen=True, slots=True)
class Why:
    """Why an execution is where it is; the first reason is what it waits for now."""

    status: Status
    text: str
    reasons: Sequence[Reason]


def why(facts: Facts) -> Why:
    """Return what an execution waits for, in the order in which it must come to pass.

    The last reason may be its expiry, for which it doesn't wait.
    """
    execution = facts.execution
    reasons = tuple(_reasons(facts))
    if reasons:
        said = reasons[0].text
    elif execution.status.terminal:
        said = f"It is {execution.status}: it waits for nothing."
        if execution.ended_unbegun:
            said = f"It is cancelled. {execution.error_message}"
    else:
        said = "Nothing holds it up: it is being sent to a worker."
    return Why(execution.status, said, (*reasons, *_expiry(execution)))


def _expiry(execution: Execution) -> Iterator[Reason]:
    if execution.may_expire:
        yield Reason(
            ReasonCode.EXPIRY,
            "It is cancelled if it has not begun by then.",
            until=execution.expires_at,
        )


def _reasons(facts: Facts) -> Iterator[Reason]:
    execution = facts.execution
    match execution.status:
        case Status.RUNNING:
            if execution.cancel_requested_at is not None:
                yield _cancellation(execution)
                return
            yield from _answers(facts)
            yield _end(execution)
        case Status.WAITING:
            yield from _parked(facts)
            yield from _paused(facts)
            yield from _no_worker(facts)
        case Status.PENDING:
            yield from _paused(facts)
            yield from _held(facts)
            yield from _no_worker(facts)
            if execution.held in {None, Held.PAUSED} and facts.slots:
                yield from _queue(facts)
        case Status.QUEUED:
            yield from _paused(facts)
            yield from _no_worker(facts)
            if facts.slots:
                yield _slot(facts)


def _cancellation(execution: Execution) -> Reason:
    by = execution.cancel_requested_by or "somebody"
    return Reason(
        ReasonCode.CANCELLATION,
        f"{by} has requested its cancellation; {_worker_name(execution)} is stopping it.",
        _worker(execution),
        since=execution.cancel_requested_at,
    )


def _end(execution: Execution) -> Reason:
    return Reason(
        ReasonCode.END,
        f"It runs on {_worker_name(execution)}, attempt {execution.attempt}.",
        _worker(execution),
        since=execution.started_at,
    )


def _worker(execution: Execution) -> Subject | None:
    name = execution.worker_hostname
    return None if name is None else Subject(SubjectKind.WORKER, name)


def _worker_name(execution: Execution) -> str:
    return execution.worker_hostname or "a worker"


def _answers(facts: Facts) -> Iterator[Reason]:
    for question in facts.questions:
        yield Reason(
            ReasonCode.ANSWER,
            f"A person must answer: {question.title}",
            Subject(SubjectKind.APPROVAL, str(question.id)),
            since=question.asked_at,
            until=question.expires_at,
        )


_WAITS = {
    WaitingFor.BUDGET: (
        ReasonCode.BUDGET,
        "Its budget is spent. More budget resumes it.",
    ),
    WaitingFor.PROVIDER_LIMIT: (
        ReasonCode.PROVIDER_LIMIT,
        "The rate limit of its model's provider is reached.",
    ),
    WaitingFor.SLEEP: (ReasonCode.TIME, "It sleeps until its time."),
}


def _parked(facts: Facts) -> Iterator[Reason]:
    execution = facts.execution
    since, until = execution.waiting_since, execution.waiting_until
    yield from _answers(facts)
    match execution.waiting_for:
        case WaitingFor.CHILDREN | WaitingFor.CHILD:
            live = _count(facts.live_children, "execution")
            what = "all" if execution.waiting_for is WaitingFor.CHILDREN else "the next"
            yield Reason(
                ReasonCode.CHILDREN,
                f"It waits for {what} of the executions that it has started to end: {live} left.",
                Subject(SubjectKind.EXECUTION, str(execution.id)),
                since=since,
                count=facts.live_children,
            )
        case WaitingFor.BUDGET | WaitingFor.PROVIDER_LIMIT | WaitingFor.SLEEP as reason:
            code, text = _WAITS[reason]
            yield Reason(code, text, since=since, until=until)


def _paused(facts: Facts) -> Iterator[Reason]:
    for pause in facts.pauses:
        yield Reason(
            ReasonCode.PAUSE,
            f"{pause.created_by} has paused {pause.subject}: {pause.reason}",
            Subject(SubjectKind.PAUSE, str(pause.id)),
            since=pause.created_at,
        )


def _debounce(execution: Execution, by: Debounced) -> Reason:
    so_far = f" It has replaced {counted(by.replaced, 'earlier one')}." if by.replaced else ""
    return Reason(
        ReasonCode.DEBOUNCE,
        f"It is debounced by the key {by.key!r}: a newer submission with it, before it is due, "
        f"replaces it.{so_far}",
        since=execution.created_at,
        until=execution.available_at,
        count=by.replaced,
    )


def _held(facts: Facts) -> Iterator[Reason]:
    execution = facts.execution
    since = execution.waiting_since
    match execution.held:
        case Held.TIME if execution.attempt:
            said = f": {execution.error_message.rstrip('.')}" if execution.error_message else ""
            yield Reason(
                ReasonCode.RETRY,
                f"Attempt {execution.attempt} did not succeed{said}. It is repeated after a delay.",
                since=since,
                until=execution.available_at,
            )
        case Held.TIME if facts.debounced is not None:
            yield _debounce(execution, facts.debounced)
        case Held.TIME:
            yield Reason(
                ReasonCode.TIME,
                "It was submitted for later.",
                since=execution.created_at,
                until=execution.available_at,
            )
        case Held.LIMIT:
            yield from _limits(facts)
        case Held.PARALLEL if execution.workflow_run_id is not None:
            yield Reason(
                ReasonCode.STEP_LIMIT,
                f"The step {execution.step!r} runs at most {facts.parallel} of its items at once.",
                Subject(SubjectKind.WORKFLOW_RUN, str(execution.workflow_run_id)),
                since=since,
                count=facts.beside,
            )
        case Held.PARALLEL:
            yield Reason(
                ReasonCode.PARENT_LIMIT,
                f"Its parent runs at most {facts.parallel} of its children at once.",
                Subject(SubjectKind.EXECUTION, str(execution.parent_id)),
                since=since,
                count=facts.beside,
            )
        case Held.PAUSED if not facts.pauses:
            yield Reason(
                ReasonCode.PAUSE, "It was paused, and is about to be released.", since=since
            )


def _limits(facts: Facts) -> Iterator[Reason]:
    """Name the limit in whose line it waits, then others of which no slot is free."""
    since = facts.execution.waiting_since
    for limit in sorted(facts.limits, key=lambda each: each.state is not ExecutionSlot.WAITING):
        waits = limit.state is ExecutionSlot.WAITING
        if not waits and limit.used < limit.max:
            continue
        if limit.interval is not None:
            yield _rate(facts, limit)
            continue
        holders = ", ".join(map(str, limit.holders))
        more = limit.used - len(limit.holders)
        taken = f"{limit.used} {'is' if limit.used == 1 else 'are'} taken"
        said = f"{_named(limit, 'limit')} has {counted(limit.max, 'slot')}; {taken}"
        if holders:
            said += f", by {holders}" + (f" and {more:,} more" if more else "")
        if limit.ahead:
            said += f". {_count(limit.ahead, 'execution')} come first"
        yield Reason(
            ReasonCode.LIMIT,
            f"{said}.",
            _subject(limit),
            since=since,
            count=limit.ahead,
        )


def _named(limit: ExecutionLimit, kind: str) -> str:
    """Return the name of a limit with its key."""
    if limit.name is None:
        return f"The {kind} {limit.key!r}"
    return f"The {kind} {limit.name!r} of the workspace, with the key {limit.key!r},"


def _subject(limit: ExecutionLimit) -> Subject | None:
    """Return the limit's row, or else who has a slot."""
    if limit.limit_id is not None:
        return Subject(SubjectKind.LIMIT, str(limit.limit_id))
    return Subject(SubjectKind.EXECUTION, str(limit.holders[0])) if limit.holders else None


def _rate(facts: Facts, limit: ExecutionLimit) -> Reason:
    seconds = limit.interval * limit.max if limit.interval is not None else 0.0
    said = f"{_named(limit, 'rate')} lets {counted(limit.max, 'execution')} begin in {seconds:g} s"
    if limit.ahead:
        said += f". {_count(limit.ahead, 'execution')} come first"
    return Reason(
        ReasonCode.LIMIT,
        f"{said}.",
        _subject(limit),
        since=facts.execution.waiting_since,
        until=limit.next_at,
        count=limit.ahead,
    )


def _no_worker(facts: Facts) -> Iterator[Reason]:
    if facts.slots:
        return
    queue = facts.execution.queue
    if facts.idle_listeners:
        listeners = counted(facts.idle_listeners, "worker process", "worker processes")
        text = f"{listeners} of the queue {queue!r} take nothing from it now."
    else:
        text = f"No worker listens to the queue {queue!r}."
    yield Reason(
        ReasonCode.WORKER,
        f"{text} Start one: celery -A celeriac worker -Q {queue}",
        Subject(SubjectKind.QUEUE, queue),
        since=facts.last_listened_at,
    )


def _queue(facts: Facts) -> Iterator[Reason]:
    execution = facts.execution
    if not facts.ahead and not facts.sent:
        return
    first = _count(facts.ahead, "execution")
    sent = _count(facts.sent, "message")
    said = (
        f"{first} of the queue {execution.queue!r} come first, and {sent} are sent already, for "
        f"{counted(facts.slots, 'slot')}. Other owners take turns with it."
    )
    if facts.raised_at is not None:
        said += f" Its priority becomes {RAISED[Priority(execution.priority)].label} by waiting."
    yield Reason(
        ReasonCode.QUEUE,
        said,
        Subject(SubjectKind.QUEUE, execution.queue),
        since=execution.waiting_since,
        until=facts.raised_at,
        count=facts.ahead,
    )


def _slot(facts: Facts) -> Reason:
    execution = facts.execution
    return Reason(
        ReasonCode.SLOT,
        f"Its message is sent; one of {counted(facts.slots, 'slot')} of the queue "
        f"{execution.queue!r} must take it. {_count(facts.sent, 'message')} of the queue are sent.",
        Subject(SubjectKind.QUEUE, execution.queue),
        since=execution.queued_at,
        count=facts.sent,
    )


def _count(number: int, word: str) -> str:
    if number >= MOST_COUNTED:
        return f"{counted(MOST_COUNTED, word)} or more"
    return counted(number, word)
