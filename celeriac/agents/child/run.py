"""Runs a child process; its messages become events, questions, model calls and log lines."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, overload

from structlog.typing import FilteringBoundLogger

from celeriac.agents.child.errors import crash_of, error_of
from celeriac.agents.child.process import ChildCommand, ChildProcess
from celeriac.agents.child.protocol import (
    AdmitMessage,
    AskMessage,
    ChildMessage,
    DeltaMessage,
    ErrorMessage,
    EventMessage,
    LabelMessage,
    LogMessage,
    ParkMessage,
    ProgressMessage,
    ReleaseMessage,
    Request,
    ResultMessage,
    ResultsMessage,
    RunMessage,
    SleepMessage,
    StepDoneMessage,
    StepMessage,
    UsageMessage,
    answer_message,
    time_left,
)
from celeriac.agents.child.reported_calls import Price, ReportedCalls, unpriced
from celeriac.agents.durable import DurableCalls
from celeriac.agents.gateway.calls import ModelCalls
from celeriac.domain.approvals import Answer
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    ChildCrashedError,
    ChildProtocolError,
    HardTimeLimitError,
    InvalidInputError,
    PermanentError,
)
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed, Parked
from celeriac.domain.executions.steps import StepKind
from celeriac.kit.json_types import JsonObject, JsonValue, dumps, storable_text
from celeriac.kit.processes import ResourceLimits
from celeriac.kit.text import clip
from celeriac.kit.threads import CHECKS
from celeriac.kit.users import UnreachableError
from celeriac.logs import get_logger
from celeriac.services.ports import Job, RunContext

MAX_OPEN = 100
"""How many questions of one child may be open at once."""


MAX_LOG_EVENTS = 1_000
"""Lines of one attempt that become events; the log files get all lines."""

MAX_LOG_CHARACTERS = 20_000
"""The longest line that is kept, and the longest JSON of its fields."""

_NUMBERS = logging.getLevelNamesMapping()


class LogRelay:
    """Writes the log lines of one attempt to the log, and the first of them as events."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._count = 0

    @cached_property
    def _log(self) -> FilteringBoundLogger:  # most attempts write no line
        return get_logger("celeriac.agent").bind(**self._context.correlation)

    async def write(
        self,
        message: str,
        *,
        level: str = "info",
        source: str = "agent",
        fields: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """Log one line; raises the errors of `RunContext.emit`.

        `source` is the name of the agent's logger, or `stderr`.
        """
        message = clip(storable_text(message), MAX_LOG_CHARACTERS)
        extra: dict[str, JsonValue] = {"source": source}
        if fields:
            size = len(dumps(dict(fields)))
            kept = dict(fields) if size <= MAX_LOG_CHARACTERS else {"clipped": size}
            extra["fields"] = kept  # nested, so that their names can't replace ours
        self._log.log(_NUMBERS[level.upper()], message, **extra)
        self._count += 1
        if self._count > MAX_LOG_EVENTS:
            return
        await self._context.emit(EventType.LOG, {"level": level, "message": message, **extra})
        if self._count == MAX_LOG_EVENTS:
            await self._context.emit(
                EventType.LOG,
                {
                    "level": "warning",
                    "message": f"{MAX_LOG_EVENTS} lines are kept as events; the log files have "
                    "all lines.",
                    "source": "celeriac",
                },
            )


class MessageRelay:
    """Applies the messages of a child to the context of an attempt."""

    def __init__(
        self, job: Job, context: RunContext, calls: ReportedCalls, *, durable: bool = False
    ) -> None:
        """With `durable` the attempt is parked where it would wait."""
        self.durable = DurableCalls(job, context, parks=durable)
        self._job = job
        self._context = context
        self._calls = calls
        self._logs = LogRelay(context)

    async def ask(self, message: AskMessage) -> Answer | None:
        """Ask a person; None if the attempt must be parked for that.

        Raises InvalidInputError, StepsChangedError and the errors of `RunContext.ask`.
        """
        policy = self._job.agent.approvals
        if message.answer_schema is None:
            question = message.question(policy)
        else:  # whose check may take long
            question = await CHECKS.run(message.question, policy)
        return await self.durable.ask(message.path, message.name, question)

    async def call(self, message: Request) -> JsonObject:
        """Make a durable call, or read results, and return the reply."""
        if isinstance(message, ResultsMessage):
            page = await self._context.step_results(
                message.step, run_id=message.run, after=message.after
            )
            return {
                "type": "results",
                "id": message.id,
                "results": page.results,
                "next_after": page.next_after,
            }
        if isinstance(message, LabelMessage):
            return {**await self._label(message), "id": message.id}
        place = (message.path, message.name)
        reply: JsonObject
        match message:
            case StepMessage():
                reply = {"type": "step", **await self.durable.begin(*place)}
            case StepDoneMessage():
                error = None if message.error is None else message.error.model_dump()
                await self.durable.done(
                    *place, value=message.value, error=error, tries=message.tries
                )
                reply = {"type": "stored"}
            case SleepMessage():
                until = None if message.until is None else message.until.isoformat()
                slept = await self.durable.sleep(*place, seconds=message.seconds, until=until)
                reply = {"type": "slept" if slept else "park"}
            case RunMessage():
                children = await self.durable.run(
                    *place,
                    message.children(),
                    kind=StepKind(message.kind),
                    keep_errors=message.keep_errors,
                )
                reply = {"type": "park"}
                if children is not None:
                    reply = {"type": "ran", "children": children}
        return {**reply, "id": message.id}

    async def _label(self, message: LabelMessage) -> JsonObject:
        try:
            labels = await self._context.label(message.labels)
        except InvalidInputError as error:
            return {"type": "refused", "message": error.message, "field": "labels"}
        return {"type": "labels", "labels": dict(labels)}

    async def apply(self, message: ChildMessage) -> None:
        """Apply one message that needs no reply; raises the errors of `RunContext`."""
        match message:
            case EventMessage():
                await self._context.emit(EventType(message.kind), message.data)
            case ProgressMessage():
                await self._context.progress(message.done, message.total, message.note)
            case UsageMessage():
                await self._calls.charge(message)
            case DeltaMessage():
                self._context.delta(message.data)
            case LogMessage():
                await self._logs.write(
                    message.message,
                    level=message.level,
                    source=message.logger or self._job.agent_name,
                    fields=message.fields,
                )


SWALLOWED = (
    "The function caught celeriac.Parking, which ends an attempt that waits, and returned. Catch "
    "Exception instead of BaseException, and don't return in a finally block."
)

_MEGABYTE = 1024 * 1024
_EXIT_SECONDS = 2.0
"""How long a child may take to exit after its result."""


@overload
async def run_in_child(
    command: ChildCommand,
    job: Job,
    context: RunContext,
    extra: JsonObject,
    *,
    price: Price = ...,
    calls: ModelCalls | None = ...,
    durable: Literal[False] = ...,
) -> Completed: ...


@overload
async def run_in_child(
    command: ChildCommand,
    job: Job,
    context: RunContext,
    extra: JsonObject,
    *,
    price: Price = ...,
    calls: ModelCalls | None = ...,
    durable: bool,
) -> Completed | Parked: ...


async def run_in_child(
    command: ChildCommand,
    job: Job,
    context: RunContext,
    extra: JsonObject,
    *,
    price: Price = unpriced,
    calls: ModelCalls | None = None,
    durable: bool = False,
) -> Completed | Parked:
    """Run `job` as `command` and return its result; no process of the child remains.

    The child has the job's memory limit. The `start` message holds the job and `extra`. `price`
    computes the cost of model calls that the child reports without one. An error of the gateway's
    `calls` ends the child and is raised. At the soft limit (the first cancellation after it has
    passed) the child gets `soft_limit`, and has until the hard limit to send a result or an error.
    The child continues while its questions are open, or with `durable` it is sent `park`. Raises
    the error that the child reports, AgentMisconfiguredError if the child's user has no access to a
    file that it needs, ChildCrashedError, ChildProtocolError, HardTimeLimitError, MemoryLimitError,
    DiskLimitError, and the errors of the context, such as ApprovalExpiredError.
    """
    reported = ReportedCalls(context, price)
    limits = ResourceLimits(memory=job.limits.memory_mb * _MEGABYTE)
    try:
        async with ChildProcess.spawn(replace(command, limits=limits)) as child:
            child.send({"type": "start", "job": describe_job(job, context), **extra})
            supervision = _Supervision(child, job, context, reported, durable=durable)
            if calls is not None:
                calls.on_stop = supervision.stop
            return await supervision.result()
    except UnreachableError as error:
        raise AgentMisconfiguredError(str(error), field="runner") from error
    finally:
        await reported.close()


def describe_job(job: Job, context: RunContext) -> JsonObject:
    """Return the job as the `start` message has it; makes the working directory."""
    return {**describe_work(job, context), "workdir": str(context.workdir)}


def describe_work(job: Job, context: RunContext) -> JsonObject:
    """Return the job without its directory, which is made when an agent asks for it."""
    return {
        "execution_id": str(job.execution_id),
        "attempt": job.attempt,
        "task_name": job.task_name,
        "agent_name": job.agent_name,
        "prompt": job.prompt,
        "variables": job.variables,
        "output_schema": job.output_schema,
        "limits": job.limits.model_dump(mode="json"),
        **time_left(context.time_limits),
        "correlation": dict(context.correlation),
        "idempotency_prefix": context.idempotency_key(""),
        **({} if job.feedback is None else {"feedback": job.feedback}),
    }


class _Supervision(MessageRelay):
    """Supervises one child from its start to its result."""

    def __init__(
        self,
        child: ChildProcess,
        job: Job,
        context: RunContext,
        calls: ReportedCalls,
        *,
        durable: bool,
    ) -> None:
        super().__init__(job, context, calls, durable=durable)
        self._child = child
        self._questions: set[asyncio.Task[None]] = set()
        self._soft_limit_sent = False
        self._following: asyncio.Future[Completed | Parked] | None = None
        self._stopped: Exception | None = None

    def stop(self, error: Exception) -> None:
        """Have `result` raise `error`."""
        if self._stopped is None and self._following is not None:
            self._stopped = error
            self._following.cancel()

    async def result(self) -> Completed | Parked:
        """Return the child's result; raises the errors of `run_in_child`."""
        following = self._following = asyncio.ensure_future(self._follow())
        while True:
            try:
                return await asyncio.shield(following)
            except asyncio.CancelledError:
                if self._stopped is not None and following.done():
                    raise self._stopped from None
                # the soft limit is the first cancellation after it has passed
                is_soft = not self._soft_limit_sent and self._context.time_limits.soft_passed
                if following.done() or not is_soft:
                    if self._context.time_limits.hard_left <= 0:
                        self._child.kill_at_end()  # the cancellation is that of the hard limit
                    following.cancel()
                    await asyncio.gather(following, return_exceptions=True)
                    raise
                self._soft_limit_sent = True
                self._child.send({"type": "soft_limit"})

    async def _follow(self) -> Completed | Parked:
        scope = None
        try:
            async with self._context.time_limits.hard() as scope:
                last = await self._until_last()
        except TimeoutError:
            if scope is None or not scope.expired():
                raise
            self._child.kill_at_end()
            raise HardTimeLimitError(
                "The child process was killed at its hard limit of "
                f"{self._job.limits.hard_seconds:g} s."
            ) from None
        finally:
            for task in self._questions:
                task.cancel()
            await asyncio.gather(*self._questions, return_exceptions=True)
        if last is None and not self.durable.must_wait:
            raise await self._crash()
        await self._let_exit()
        if isinstance(last, ErrorMessage):
            raise error_of(last.error)
        if self.durable.must_wait and not isinstance(last, ResultMessage):
            return self.durable.parked(more=isinstance(last, ParkMessage) and last.more)
        if not isinstance(last, ResultMessage):
            raise ChildProtocolError("The child process parked without a reason to wait.")
        if self.durable.must_wait:
            raise PermanentError(SWALLOWED)
        return Completed(last.value, truncated=last.truncated)

    async def _until_last(self) -> ResultMessage | ErrorMessage | ParkMessage | None:
        """Handle messages up to the result or error; None if the child ends without either."""
        while (message := await self._child.next_message()) is not None:
            if isinstance(message, (ResultMessage, ErrorMessage, ParkMessage)):
                return message
            await self._handle(message)
        return None

    async def _let_exit(self) -> None:
        """Give the child time to exit, and keep the log lines that it still writes."""
        with contextlib.suppress(TimeoutError, ChildProtocolError):
            async with asyncio.timeout(_EXIT_SECONDS):
                while (message := await self._child.next_message()) is not None:
                    if isinstance(message, LogMessage):
                        await self.apply(message)

    async def _crash(self) -> ChildCrashedError:
        if not await self._child.wait(_EXIT_SECONDS):
            self._child.kill_at_end()
            return ChildCrashedError("The child process closed its stdout without a result.")
        assert self._child.returncode is not None
        memory_mb = self._job.limits.memory_mb
        return crash_of(self._child.returncode, self._child.stderr_tail, memory_mb=memory_mb)

    async def _handle(self, message: ChildMessage) -> None:
        match message:
            case AdmitMessage():
                admitted = await self._calls.admit(message)
                self._child.send({**admitted, **time_left(self._context.time_limits)})
            case ReleaseMessage():
                await self._calls.release(message)
            case AskMessage():
                self._start(self._answer(message), f"ask {message.key}")
            case StepMessage() | StepDoneMessage() | SleepMessage() | RunMessage():
                self._start(self._reply(message), f"{message.type} {message.name}")
            case ResultsMessage():
                self._start(self._reply(message), f"{message.type} {message.step}")
            case LabelMessage():
                self._start(self._reply(message), message.type)
            case _:
                await self.apply(message)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Start a task that sends the reply to a message when it is known."""
        if len(self._questions) >= MAX_OPEN:
            work.close()
            raise ChildProtocolError(
                f"The child process has {MAX_OPEN} open questions; it must wait for answers first."
            )
        task = asyncio.create_task(work, name=name)
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)

    async def _answer(self, message: AskMessage) -> None:
        try:
            answer = await self.ask(message)
            limits = self._context.time_limits
            if answer is None:
                self._child.send({**time_left(limits), "type": "park", "key": message.key})
            else:
                self._child.send(answer_message(message.key, answer, limits))
        except Exception as error:  # noqa: BLE001 - `next_message` raises it
            await self._child.fail(error)

    async def _reply(self, message: Request) -> None:
        try:
            reply = await self.call(message)
            self._child.send({**time_left(self._context.time_limits), **reply})
        except Exception as error:  # noqa: BLE001 - `next_message` raises it
            await self._child.fail(error)
