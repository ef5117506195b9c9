"""One run of the model library's agent, and its outcome."""

from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2
from pydantic_ai import (
    Agent,
    DeferredToolRequests,
    DeferredToolResults,
    UsageLimits,
)
from pydantic_ai import RunContext as AiContext
from pydantic_ai import exceptions as ai
from pydantic_ai.messages import (
    AgentStreamEvent,
    FinalResultEvent,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
)
from pydantic_ai.models import Model
from pydantic_ai.output import OutputSpec
from pydantic_ai.run import AgentRunResult
from pydantic_ai.settings import ModelSettings
from pydantic_ai.toolsets import AbstractToolset
from pydantic_ai.usage import RunUsage

from celeriac.agents.gateway.calls import ModelCalls, calling
from celeriac.agents.gateway.completions import AnswerError
from celeriac.agents.gateway.errors import (
    SHOWN,
    CallFailure,
    FailureSource,
    content_filtered,
    error_of,
)
from celeriac.agents.llm.approvals import parked, pending_of
from celeriac.agents.llm.conversation import Conversation, Deltas, Kind
from celeriac.agents.llm.logged_model import MAX_SHOWN_ANSWER, LoggedModel
from celeriac.agents.llm.silence import SilenceLimits, Watchdog
from celeriac.agents.llm.structured import StructuredOutput
from celeriac.agents.mcp.results import repaired
from celeriac.agents.models import ModelRef, Prices
from celeriac.agents.output import final_result
from celeriac.domain.agents import LlmAgent
from celeriac.domain.errors import ModelCallLimitError, OutputInvalidError, ProviderError
from celeriac.domain.executions.model import Completed, Parked
from celeriac.kit.text import clip
from celeriac.services.ports import Job, RunContext

TOOL_RETRIES = 3
"""How often a model may call an unknown tool, or one with unreadable arguments."""

_REPAIRS = 1
"""How often a model is shown what was wrong with its answer before the attempt fails."""


class AgentRun:
    """One run of an agent, from its prompt or from the saved state of another attempt."""

    def __init__(
        self,
        spec: LlmAgent,
        job: Job,
        *,
        choice: ModelRef,
        model: Model,
        context: RunContext,
        conversation: Conversation,
        prices: Prices,
        patience: SilenceLimits,
    ) -> None:
        """Have `model` answer, which `choice` names."""
        self._spec = spec
        self._job = job
        self._choice = choice
        self._conversation = conversation
        self._watchdog = Watchdog(patience.within(job.limits), choice)
        self._model = LoggedModel(
            model,
            choice=choice,
            context=context,
            conversation=conversation,
            watchdog=self._watchdog,
            prices=prices,
            structured=bool(job.output_schema),
        )
        self._deltas = Deltas(context)

    async def run(
        self,
        output: StructuredOutput | None,
        toolsets: Sequence[AbstractToolset[None]],
        answers: DeferredToolResults | None,
    ) -> Completed | Parked:
        """Return the answer, or the questions that it waits for; the session is saved.

        `answers` are those to the pending calls of an earlier attempt.
        """
        conversation = self._conversation
        calls = self._model.calls
        with translated(self._choice, calls, max_model_calls=self._spec.max_model_calls):
            async with self._watchdog.watching():
                with calling(calls):
                    result = await self._ask(output, toolsets, answers)
        messages = result.all_messages()
        if isinstance(result.output, DeferredToolRequests):
            pending = pending_of(result.output, messages)
            await conversation.park(messages, pending)
            return parked(
                pending, messages, agent=self._job.agent_name, policy=self._spec.approvals
            )
        answer = result.output if output is None else output.value(result.output)
        value = await final_result(repaired(answer), None, f"the agent {self._job.agent_name}")
        done = Completed(value, truncated=self._model.truncated)
        await conversation.finish(messages, done, keep=self._spec.keep_session)
        return done

    async def _ask(
        self,
        output: StructuredOutput | None,
        toolsets: Sequence[AbstractToolset[None]],
        answers: DeferredToolResults | None,
    ) -> AgentRunResult[Any]:
        conversation = self._conversation
        try:
            return await self._agent(output, toolsets).run(
                conversation.prompt,
                message_history=conversation.history or None,
                deferred_tool_results=answers,
                usage=RunUsage(requests=conversation.requests),
                usage_limits=UsageLimits(request_limit=self._spec.max_model_calls),
                event_stream_handler=self._listen,
            )
        except ai.UnexpectedModelBehavior as error:
            await self._explain(error, output)
            raise

    def _agent(
        self, output: StructuredOutput | None, toolsets: Sequence[AbstractToolset[None]]
    ) -> Agent[None, Any]:
        answer: OutputSpec[Any] = str if output is None else output.type
        agent: Agent[None, Any] = Agent(
            self._model,
            output_type=[answer, DeferredToolRequests] if toolsets else answer,
            name=self._job.agent_name,
            instructions=self._spec.instructions or None,
            model_settings=_settings(self._spec),
            retries={
                "tools": TOOL_RETRIES,
                "output": min(_REPAIRS, self._spec.max_model_calls - 1),
            },
            toolsets=toolsets,
        )
        if output is not None:
            agent.output_validator(output.check)
        return agent

    async def _explain(
        self, error: ai.UnexpectedModelBehavior, output: StructuredOutput | None
    ) -> None:
        """Raise an error that describes the fault of the model's answer, if there was one."""
        answer = self._model.last_answer
        if output is not None and answer.strip():
            raise OutputInvalidError(
                f"The answer doesn't fit the task's output schema: {await output.explain(answer)}.",
                answer=clip(answer, MAX_SHOWN_ANSWER),
            ) from error
        if not answer.strip() and not self._model.called_tools:
            raise OutputInvalidError("The model answered with nothing.") from error

    async def _listen(
        self, _context: AiContext[None], events: AsyncIterable[AgentStreamEvent]
    ) -> None:
        try:
            async for event in _readable(events):
                kind, piece = _piece(event)
                self._deltas.add(kind, piece)
        finally:
            self._deltas.flush()


_FROM_THE_MODEL = (PartStartEvent, PartDeltaEvent, PartEndEvent, FinalResultEvent)
"""Events of the model's answer; other events are those of tools."""


async def _readable(events: AsyncIterable[AgentStreamEvent]) -> AsyncIterator[AgentStreamEvent]:
    """Yield `events`; the library fails at chunks that differ from OpenAI's."""
    event = None
    try:
        async for event in events:
            yield event
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if event is not None and not isinstance(event, _FROM_THE_MODEL):
            raise  # the error of a tool
        raise ProviderError(
            f"The provider sent an answer that can't be read: {error!r}."
        ) from error


def _settings(spec: LlmAgent) -> ModelSettings:
    settings = ModelSettings()
    if spec.temperature is not None:
        settings["temperature"] = spec.temperature
    if spec.max_output_tokens is not None:
        settings["max_tokens"] = spec.max_output_tokens
    return settings


def _piece(event: AgentStreamEvent) -> tuple[Kind, str]:
    """Return what an event adds to the answer; an empty text where it adds nothing."""
    match event:
        case PartStartEvent(part=TextPart(content=text)):
            return "text", text
        case PartStartEvent(part=ThinkingPart(content=text)):
            return "thinking", text
        case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
            return "text", text
        case PartDeltaEvent(delta=ThinkingPartDelta(content_delta=text)):
            return "thinking", text or ""
        case _:
            return "text", ""


@contextmanager
def translated(choice: ModelRef, calls: ModelCalls, *, max_model_calls: int) -> Iterator[None]:
    """Raise what the library raises inside the block as one of our `ExecutionError`s.

    The gateway knows why a call failed: the library's own error says less.
    """
    try:
        yield
    except (ai.ModelAPIError, AnswerError, httpx2.HTTPError) as error:
        failure = calls.failure or CallFailure(None, str(error))
        # Not chained: a traceback would show the body as it is, and some servers repeat the key.
        raise error_of(failure, FailureSource(choice)) from None
    except ai.UsageLimitExceeded as error:
        raise ModelCallLimitError(
            f"The agent would need more calls of {choice} than max_model_calls={max_model_calls}. "
            "Raise the limit, or make the task's prompt and output schema simpler.",
            max_model_calls=max_model_calls,
        ) from error
    except ai.ContentFilterError as error:
        raise content_filtered(choice) from error
    except ai.UnexpectedModelBehavior as error:
        raise OutputInvalidError(
            f"{choice} gave no usable answer: {clip(error.message, SHOWN)}"
        ) from error
