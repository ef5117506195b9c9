"""Runs a child: its messages become events, questions, model calls and log lines."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from celeriac.agents.child.errors import crash_of, error_of
from celeriac.agents.child.model_calls import ModelCalls, Price, unpriced
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
from celeriac.domain.agents import ApprovalPolicy
from celeriac.domain.approvals import Question
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    ChildCrashedError,
    ChildProtocolError,
    HardTimeLimitError,
)
from celeriac.domain.executions.events import EventType
from celeriac.domain.executions.model import Completed
from celeriac.kit.json_types import JsonObject, JsonValue, dumps, storable_text
from celeriac.kit.text import clip
from celeriac.kit.threads import CHECKS
from celeriac.kit.users import UnreachableError
from celeriac.logs import get_logger
from celeriac.services.ports import Job, RunContext

MAX_OPEN = 100
"""How many questions of one child may be open at once."""


class Asking:
    """Asks in a child's name and sends it the answers; at the block's end nothing is waited for."""

    def __init__(self, child: ChildProcess, context: RunContext, policy: ApprovalPolicy) -> None:
        """Ask by `policy` what the child leaves open."""
        self._child = child
        self._context = context
        self._policy = policy
        self._waiting: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)

    def ask(self, message: AskMessage) -> None:
        """Ask, and send the answer when it comes. Raises ChildProtocolError for too many."""
        if len(self._waiting) >= MAX_OPEN:
            raise ChildProtocolError(
                f"The child process has {MAX_OPEN} open questions; it must wait for answers first."
            )
        self._waiting.add(asyncio.create_task(self._answer(message), name=f"ask {message.key}"))

    async def next_message(self) -> ChildMessage | None:
        """Return the child's next message; raises what a question comes to instead of an answer."""
        self._raise_faults()
        if not self._waiting:
            return await self._child.next_message()
        message = asyncio.ensure_future(self._child.next_message())
        try:
            while not message.done():
                await asyncio.wait({message, *self._waiting}, return_when=asyncio.FIRST_COMPLETED)
                if not message.done():
                    self._raise_faults()
            return message.result()
        finally:
            message.cancel()

    def _raise_faults(self) -> None:
        for task in [task for task in self._waiting if task.done()]:
            self._waiting.remove(task)
            task.result()

    async def _answer(self, message: AskMessage) -> None:
        answer = await self._context.ask(await question_of(message, self._policy))
        self._child.send(answer_message(message.key, answer, self._context.time_limits))


async def question_of(message: AskMessage, policy: ApprovalPolicy) -> Question:
    """Return what is to be asked; a schema is checked in a thread. Raises InvalidInputError."""
    if message.answer_schema is None:
        return message.question(policy)
    return await CHECKS.run(message.question, policy)


MAX_LOG_EVENTS = 1_000
"""Lines of one attempt that become events; the log files get all of them."""

MAX_LOG_CHARACTERS = 20_000
"""How much of one line, and of its fields as JSON, is kept."""

_NUMBERS = logging.getLevelNamesMapping()


class LogRelay:
    """Takes the log lines of one attempt."""

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
        """Log one line; raises what `RunContext.emit` raises.

        `source` is the logger's name in the agent, or `stderr`.
        """
        message = clip(storable_text(message), MAX_LOG_CHARACTERS)
        extra: dict[str, JsonValue] = {"source": source}
        if fields:
            size = len(dumps(dict(fields)))
            kept = dict(fields) if size <= MAX_LOG_CHARACTERS else {"clipped": size}
            extra["fields"] = kept  # nested: their names must not meet ours
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
                    "message": f"{MAX_LOG_EVENTS} lines are kept as events; see the log files "
                    "for what follows.",
                    "source": "celeriac",
                },
            )


_EXIT_SECONDS = 2.0
"""How long a child that has given its result may take to end by itself."""


async def run_in_child(
    command: ChildCommand,
    job: Job,
    context: RunContext,
    extra: JsonObject,
    *,
    price: Price = unpriced,
) -> Completed:
    """Run `job` as `command` and return its result; nothing of the child is left then.

    The `start` message holds the job and `extra`; `price` is asked for model calls whose cost the
    child doesn't tell. At the soft limit (the first cancellation after it has
    passed) the child is told, and has until the hard limit to end with a result or an error. A
    question that the child asks is answered by a message; nothing else of it stops meanwhile.
    Raises AgentMisconfiguredError where the child's user can't have what it needs, what the child
    reports, ChildCrashedError, ChildProtocolError, HardTimeLimitError, and what the context raises:
    ApprovalExpiredError for a question among it.
    """
    calls = ModelCalls(context, price)
    try:
        async with ChildProcess.spawn(command) as child:
            child.send({"type": "start", "job": describe_job(job, context), **extra})
            return await _Supervision(child, job, context, calls).result()
    except UnreachableError as error:
        raise AgentMisconfiguredError(str(error), field="runner") from error
    finally:
        await calls.close()


def describe_job(job: Job, context: RunContext) -> JsonObject:
    """Return what a child is told of its job."""
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


class _Supervision:
    """Follows one child from its start to its result."""

    def __init__(
        self, child: ChildProcess, job: Job, context: RunContext, calls: ModelCalls
    ) -> None:
        self._child = child
        self._calls = calls
        self._job = job
        self._context = context
        self._logs = LogRelay(context)
        self._asking = Asking(child, context, job.agent.approvals)
        self._soft_told = False

    async def result(self) -> Completed:
        """Return the child's result; raises what `run_in_child` does."""
        following = asyncio.ensure_future(self._follow())
        while True:
            try:
                return await asyncio.shield(following)
            except asyncio.CancelledError:
                if following.done() or not self._is_soft_limit():
                    if self._context.time_limits.hard_left <= 0:
                        self._child.end_at_once()  # somebody else holds the hard limit too
                    following.cancel()
                    await asyncio.gather(following, return_exceptions=True)
                    raise
                self._soft_told = True
                self._child.send({"type": "soft_limit"})

    def _is_soft_limit(self) -> bool:
        """Whether a cancellation that comes now is the soft limit: the first one after it."""
        return not self._soft_told and self._context.time_limits.soft_passed

    async def _follow(self) -> Completed:
        scope = None
        try:
            async with self._context.time_limits.hard() as scope, self._asking:
                last = await self._until_last()
        except TimeoutError:
            if scope is None or not scope.expired():
                raise
            self._child.end_at_once()
            raise HardTimeLimitError(
                "The child process was killed at its hard limit of "
                f"{self._job.limits.hard_seconds:g} s."
            ) from None
        if last is None:
            raise await self._crash()
        await self._let_exit()
        if isinstance(last, ErrorMessage):
            raise error_of(last.error)
        return Completed(last.value, truncated=last.truncated)

    async def _until_last(self) -> ResultMessage | ErrorMessage | None:
        """Relay messages up to the one that ends the work; None where the child ends without."""
        while (message := await self._asking.next_message()) is not None:
            if isinstance(message, (ResultMessage, ErrorMessage)):
                return message
            await self._relay(message)
        return None

    async def _let_exit(self) -> None:
        """Give the child time to end by itself, and keep the log lines it still writes."""
        with contextlib.suppress(TimeoutError, ChildProtocolError):
            async with asyncio.timeout(_EXIT_SECONDS):
                while (message := await self._child.next_message()) is not None:
                    if isinstance(message, LogMessage):
                        await self._relay(message)

    async def _crash(self) -> ChildCrashedError:
        if not await self._child.wait(_EXIT_SECONDS):
            self._child.end_at_once()
            return ChildCrashedError("The child process closed its stdout without a result.")
        assert self._child.returncode is not None
        memory_mb = self._job.limits.memory_mb
        return crash_of(self._child.returncode, self._child.stderr_tail, memory_mb=memory_mb)

    async def _relay(self, message: ChildMessage) -> None:
        context = self._context
        match message:
            case EventMessage():
                await context.emit(EventType(message.kind), message.data)
            case ProgressMessage():
                await context.progress(message.done, message.total, message.note)
            case AdmitMessage():
                admitted = await self._calls.admit(message)
                self._child.send({**admitted, **time_left(context.time_limits)})
            case ReleaseMessage():
                await self._calls.release(message)
            case UsageMessage():
                await self._calls.charge(message)
            case AskMessage():
                self._asking.ask(message)
            case DeltaMessage():
                context.delta(message.data)
            case LogMessage():
                await self._logs.write(
                    message.message,
                    level=message.level,
                    source=message.logger or self._job.agent_name,
                    fields=message.fields,
                )
