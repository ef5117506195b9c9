"""The `ctx` of a coroutine function, in the worker."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from celeriac.agents.child.model_calls import Price, unpriced
from celeriac.agents.child.protocol import AskMessage
from celeriac.agents.child.run import LogRelay, question_of
from celeriac.agents.models import Tokens
from celeriac.agents.python.child_context import LOG_LEVELS
from celeriac.agents.python.questions import approve_message, ask_message
from celeriac.domain.approvals import Answer
from celeriac.domain.errors import InvalidInputError
from celeriac.domain.executions.events import EventType
from celeriac.domain.usage import ModelCall
from celeriac.kit.json_types import JsonObject, JsonValue, checked
from celeriac.services.ports import Job, RunContext


class AgentContext:
    """What a coroutine function may do besides its own work: its parameter `ctx`.

    Every method raises LeaseLostError once this worker no longer owns the attempt.
    """

    def __init__(self, job: Job, context: RunContext, price: Price = unpriced) -> None:
        self._job = job
        self._context = context
        self._price = price
        self._logs = LogRelay(context)

    @property
    def execution_id(self) -> str:
        """The execution's id."""
        return str(self._job.execution_id)

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self._job.attempt

    @property
    def prompt(self) -> str:
        """The task's prompt, rendered with the variables."""
        return self._job.prompt

    @property
    def workdir(self) -> Path:
        """The execution's own directory; not the current one, which all coroutines share."""
        return self._context.workdir

    @property
    def correlation(self) -> Mapping[str, str]:
        """The ids that every log line of this attempt carries."""
        return self._context.correlation

    def time_left(self) -> float:
        """Return the seconds until the hard limit; it stands still while a person is asked."""
        return self._context.time_limits.hard_left

    def idempotency_key(self, step: str) -> str:
        """Return the key for an outside effect: the same for every attempt of this execution."""
        return self._context.idempotency_key(step)

    async def emit(self, name: str, data: JsonObject | None = None) -> None:
        """Add an event of your own, with JSON data, to the execution's log.

        Raises TypeError for data that can't be stored as it is (docs/python-agents.md).
        """
        own = checked(dict(data or {}))
        await self._context.emit(EventType.CUSTOM, {"name": name, "data": own})

    async def progress(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how far the work is."""
        await self._context.progress(done, total, note)

    async def log(self, message: str, *, level: str = "info", **fields: Any) -> None:
        """Write a log line; `level` is debug, info, warning, error or critical."""
        if level not in LOG_LEVELS:
            raise ValueError(f"there is no log level {level!r}; use one of {sorted(LOG_LEVELS)}")
        await self._logs.write(message, level=level, fields=checked(fields))

    def delta(self, data: JsonObject) -> None:
        """Show a piece of streaming output to those who watch; it is never stored."""
        self._context.delta(checked(dict(data)))

    async def charge(
        self,
        *,
        provider: str,
        model: str,
        input_tokens: int,
        output_tokens: int,
        cached_tokens: int = 0,
        latency_ms: int = 0,
        finish_reason: str | None = None,
    ) -> None:
        """Record a model call that this function made; its cost is found where it is known."""
        tokens = Tokens(input_tokens, output_tokens, cached_tokens)
        await self._context.charge(
            ModelCall(
                provider=provider,
                model=model,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cached_tokens=cached_tokens,
                latency_ms=latency_ms,
                finish_reason=finish_reason,
                cost=self._price(provider, model, tokens),
            )
        )

    async def ask(
        self,
        title: str,
        *,
        key: str | None = None,
        schema: JsonObject | None = None,
        expires_seconds: float | None = None,
        on_expiry: str | None = None,
        default: JsonValue = None,
    ) -> Answer:
        """Ask a person and wait here for the answer; the time limits stand still meanwhile.

        The answer's `value` is a text or, with a JSON `schema`, what fits it. Asked again under
        the same `key`, in a later attempt too, it is the same question with the same answer; the
        key is made of the question where none is given. `on_expiry` (deny, approve, fail) and
        `expires_seconds` are the agent's unless given; `default` is the value of an expiry that
        approves. Raises ApprovalExpiredError, InvalidInputError.
        """
        return await self._ask(
            ask_message(
                title,
                key=key,
                schema=schema,
                expires_seconds=expires_seconds,
                on_expiry=on_expiry,
                default=default,
            )
        )

    async def approve(
        self,
        tool: str,
        arguments: JsonObject | None = None,
        *,
        key: str | None = None,
        title: str | None = None,
        expires_seconds: float | None = None,
        on_expiry: str | None = None,
    ) -> Answer:
        """Ask a person whether `tool` may be called with `arguments`, and wait for the answer.

        Its `value` holds other arguments where the person changed them, else None. See `ask`.
        """
        return await self._ask(
            approve_message(
                tool,
                arguments,
                key=key,
                title=title,
                expires_seconds=expires_seconds,
                on_expiry=on_expiry,
            )
        )

    async def _ask(self, message: JsonObject) -> Answer:
        try:
            asked = AskMessage.model_validate(message)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in fault["loc"])
            raise InvalidInputError(
                f"This can't be asked: {field}: {fault['msg']}.", field=field
            ) from None
        policy = self._job.agent.approvals
        return await self._context.ask(await question_of(asked, policy))
