"""Runs a child process; its messages become events, questions, model calls and log lines."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace

from celeriac.agents.child.errors import crash_of, error_of
from celeriac.agents.child.process import ChildCommand, ChildProcess
from celeriac.agents.child.protocol import (
    AdmitMessage,
    AskMessage,
    ChildMessage,
    DeltaMessage,
    ErrorMessage,
    EventMessage,
    LogMessage,
    ProgressMessage,
    ReleaseMessage,
    ResultMessage,
    UsageMessage,
    answer_message,
    time_left,
)
from celeriac.agents.child.reported_calls import Price, ReportedCalls, unpriced
from celeriac.agents.gateway.calls import ModelCalls
from celeriac.domain.approvals import Answer
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    ChildCrashedError,
    ChildProtocolError,
    HardTimeLimitError,
)
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed
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
        self._log = get_logger("celeriac.agent").bind(**context.correlation)
        self._count = 0

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

    def __init__(self, job: Job, context: RunContext, calls: ReportedCalls) -> None:
        self._job = job
        self._context = context
        self._calls = calls
        self._logs = LogRelay(context)

    async def ask(self, message: AskMessage) -> Answer:
        """Ask a person; raises InvalidInputError and the errors of `RunContext.ask`."""
        policy = self._job.agent.approvals
        if message.answer_schema is None:
            question = message.question(policy)
        else:  # whose check may take long
            question = await CHECKS.run(message.question, policy)
        return await self._context.ask(question)

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


_MEGABYTE = 1024 * 1024
_EXIT_SECONDS = 2.0
"""How long a child may take to exit after its result."""


async def run_in_child(
    command: ChildCommand,
    job: Job,
    context: RunContext,
    extra: JsonObject,
    *,
    price: Price = unpriced,
    calls: ModelCalls | None = None,
) -> Completed:
    """Run `job` as `command` and return its result; no process of the child remains.

    The child has the job's memory limit. The `start` message holds the job and `extra`. `price`
    computes the cost of model calls that the child reports without one. An error of the gateway's
    `calls` ends the child and is raised. At the soft limit (the first cancellation after it has
    passed) the child gets `soft_limit`, and has until the hard limit to send a result or an error.
    The child continues while its questions are open. Raises the error that the child reports,
    AgentMisconfiguredError if the child's user has no access to a file that it needs,
    ChildCrashedError, ChildProtocolError, HardTimeLimitError, and the errors of the context, such
    as ApprovalExpiredError.
    """
    reported = ReportedCalls(context, price)
    limits = ResourceLimits(memory=job.limits.memory_mb * _MEGABYTE)
    try:
        async with ChildProcess.spawn(replace(command, limits=limits)) as child:
            child.send({"type": "start", "job": describe_job(job, context), **extra})
            supervision = _Supervision(child, job, context, reported)
            if calls is not None:
                calls.on_stop = supervision.stop
            return await supervision.result()
    except UnreachableError as error:
        raise AgentMisconfiguredError(str(error), field="runner") from error
    finally:
        await reported.close()


def describe_job(job: Job, context: RunContext) -> JsonObject:
    """Return the job as the `start` message has it."""
    return {
        "execution_id": str(job.execution_id),
        "attempt": job.attempt,
        "task_name": job.task_name,
        "agent_name": job.agent_name,
        "prompt": job.prompt,
        "variables": job.variables,
        "output_schema": job.output_schema,
        "limits": job.limits.model_dump(mode="json"),
        "workdir": str(context.workdir),
        **time_left(context.time_limits),
        "correlation": dict(context.correlation),
        "idempotency_prefix": context.idempotency_key(""),
    }


class _Supervision(MessageRelay):
    """Supervises one child from its start to its result."""

    def __init__(
        self, child: ChildProcess, job: Job, context: RunContext, calls: ReportedCalls
    ) -> None:
        super().__init__(job, context, calls)
        self._child = child
        self._questions: set[asyncio.Task[None]] = set()
        self._soft_limit_sent = False
        self._following: asyncio.Future[Completed] | None = None
        self._stopped: Exception | None = None

    def stop(self, error: Exception) -> None:
        """Have `result` raise `error`."""
        if self._stopped is None and self._following is not None:
            self._stopped = error
            self._following.cancel()

    async def result(self) -> Completed:
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

    async def _follow(self) -> Completed:
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
        if last is None:
            raise await self._crash()
        await self._let_exit()
        if isinstance(last, ErrorMessage):
            raise error_of(last.error)
        return Completed(last.value, truncated=last.truncated)

    async def _until_last(self) -> ResultMessage | ErrorMessage | None:
        """Handle messages up to the result or error; None if the child ends without either."""
        while (message := await self._child.next_message()) is not None:
            if isinstance(message, (ResultMessage, ErrorMessage)):
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
                self._start_asking(message)
            case _:
                await self.apply(message)

    def _start_asking(self, message: AskMessage) -> None:
        """Start a task that sends the answer to a question when it arrives."""
        if len(self._questions) >= MAX_OPEN:
            raise ChildProtocolError(
                f"The child process has {MAX_OPEN} open questions; it must wait for answers first."
            )
        task = asyncio.create_task(self._answer(message), name=f"ask {message.key}")
        self._questions.add(task)
        task.add_done_callback(self._questions.discard)

    async def _answer(self, message: AskMessage) -> None:
        try:
            answer = await self.ask(message)
            self._child.send(answer_message(message.key, answer, self._context.time_limits))
        except Exception as error:  # noqa: BLE001 - `next_message` raises it
            await self._child.fail(error)
