"""One attempt in a child process: its messages to the context, its limits held, its end told."""

import asyncio
import contextlib

from celeriac.agents.child.asking import Asking
from celeriac.agents.child.errors import crash_of, error_of
from celeriac.agents.child.log_relay import LogRelay
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
    time_left,
)
from celeriac.domain.errors import (
    AgentMisconfiguredError,
    ChildCrashedError,
    ChildProtocolError,
    HardTimeLimitError,
)
from celeriac.domain.events import EventType
from celeriac.domain.outcome import Completed
from celeriac.kit.jsontypes import JsonObject
from celeriac.kit.users import UnreachableError
from celeriac.services.ports import Job, RunContext

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
