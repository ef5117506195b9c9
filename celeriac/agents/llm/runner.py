"""The `llm` runner: a language model behind any OpenAI-compatible endpoint.

Imports the model library, which takes more than a second: only `celeriac.agents.registry` imports
this module, when the first agent of this kind is run.
"""

from collections.abc import AsyncIterable, AsyncIterator
from typing import ClassVar, TypeVar

import pydantic_ai
import structlog
from pydantic_ai import Agent, UnexpectedModelBehavior, UsageLimits
from pydantic_ai import RunContext as AiContext
from pydantic_ai.messages import (
    AgentStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
)
from pydantic_ai.output import OutputSpec
from pydantic_ai.settings import ModelSettings

from celeriac.agents.base import clip
from celeriac.agents.llm.chat_models import ChatModels
from celeriac.agents.llm.clients import Clients
from celeriac.agents.llm.deltas import Deltas, Kind
from celeriac.agents.llm.metered_model import MAX_SHOWN_ANSWER, MeteredModel
from celeriac.agents.llm.model_errors import translated
from celeriac.agents.llm.structured import StructuredOutput
from celeriac.agents.llm.watchdog import Patience, Watchdog
from celeriac.agents.pricing import Prices
from celeriac.agents.providers import Providers
from celeriac.domain.agent import LlmAgent, RunnerName
from celeriac.domain.errors import AgentMisconfiguredError, OutputInvalidError, ProviderError
from celeriac.domain.outcome import Completed
from celeriac.kit.jsontypes import JsonValue
from celeriac.logs.events import Step
from celeriac.services.ports import Job, RunContext

Output = TypeVar("Output")

logger = structlog.get_logger(__name__)

_REPAIRS = 1
"""How often a model is shown what was wrong with its answer before the attempt fails."""


class LlmRunner:
    """Runs agents of the kind `llm`; one for a process, on one event loop."""

    name: ClassVar[str] = RunnerName.LLM
    resumable: ClassVar[bool] = True

    def __init__(
        self, providers: Providers, prices: Prices, *, patience: Patience | None = None
    ) -> None:
        """Reach the models of `providers`; connections are made by the first runs."""
        self._providers = providers
        self._prices = prices
        self._patience = patience or Patience()
        self._models = ChatModels(Clients(silence_seconds=self._patience.first))
        pydantic_ai.BANNER_ENABLED = False  # its greeting has no place in a worker's log

    async def run(self, job: Job, context: RunContext) -> Completed:
        """Have the model answer the job's prompt; see `Runner.run`.

        The result is the answer's text or, where the task has an output schema, a value that fits
        it. Raises ProviderError, ProviderRateLimitedError, ProviderRefusedError,
        OutputInvalidError, ContentFilteredError, ModelCallLimitError or AgentMisconfiguredError.
        """
        spec = _checked(job)
        choice = self._providers.choose(spec.model)
        output = StructuredOutput(job.output_schema) if job.output_schema else None
        watchdog = Watchdog(self._patience.within(job.limits), choice)
        model = MeteredModel(
            self._models.of(choice),
            choice=choice,
            context=context,
            watchdog=watchdog,
            prices=self._prices,
            structured=output is not None,
        )
        logger.info(
            Step.AGENT_SET_UP,
            runner=self.name,
            provider=choice.provider.name,
            model=choice.model,
            structured=output is not None,
        )
        with translated(choice, max_model_calls=spec.max_model_calls):
            async with watchdog.watching():
                answer = _Answer(spec, job, model, watchdog, Deltas(context))
                if output is None:
                    return Completed(await answer.text())
                return Completed(await answer.value(output))

    async def aclose(self) -> None:
        """Close the connections; called on the loop once nothing runs any more."""
        await self._models.aclose()


class _Answer:
    """One run of an agent, from its prompt to its answer."""

    def __init__(
        self, spec: LlmAgent, job: Job, model: MeteredModel, watchdog: Watchdog, deltas: Deltas
    ) -> None:
        self._spec = spec
        self._job = job
        self._model = model
        self._watchdog = watchdog
        self._deltas = deltas

    async def text(self) -> str:
        try:
            return await self._run(self._agent(str))
        except UnexpectedModelBehavior as error:
            if self._model.last_answer.strip():
                raise
            raise OutputInvalidError("The model answered with nothing.") from error

    async def value(self, output: StructuredOutput) -> JsonValue:
        agent = self._agent(output.type)
        agent.output_validator(output.check)
        try:
            return output.value(await self._run(agent))
        except UnexpectedModelBehavior as error:
            answer = self._model.last_answer
            raise OutputInvalidError(
                f"The answer doesn't fit the task's output schema: {output.explain(answer)}.",
                answer=clip(answer, MAX_SHOWN_ANSWER),
            ) from error

    def _agent(self, output_type: OutputSpec[Output]) -> Agent[None, Output]:
        return Agent(
            self._model,
            output_type=output_type,
            name=self._job.agent_name,
            instructions=self._spec.instructions or None,
            model_settings=_settings(self._spec),
            retries={"tools": 0, "output": min(_REPAIRS, self._spec.max_model_calls - 1)},
        )

    async def _run(self, agent: Agent[None, Output]) -> Output:
        result = await agent.run(
            self._job.prompt,
            usage_limits=UsageLimits(request_limit=self._spec.max_model_calls),
            event_stream_handler=self._listen,
        )
        return result.output

    async def _listen(
        self, _context: AiContext[None], events: AsyncIterable[AgentStreamEvent]
    ) -> None:
        try:
            async for event in _readable(events):
                self._watchdog.heard()
                kind, piece = _piece(event)
                self._deltas.add(kind, piece)
        finally:
            self._deltas.flush()


async def _readable(events: AsyncIterable[AgentStreamEvent]) -> AsyncIterator[AgentStreamEvent]:
    """Pass `events` on; the library trips over chunks that have another shape than OpenAI's."""
    try:
        async for event in events:
            yield event
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ProviderError(
            f"The provider sent an answer that can't be read: {error!r}."
        ) from error


def _checked(job: Job) -> LlmAgent:
    if not isinstance(job.agent, LlmAgent):
        raise AgentMisconfiguredError(
            f"The agent {job.agent_name} is no llm agent.", field="runner"
        )
    if not job.prompt.strip():
        raise AgentMisconfiguredError(
            f"The prompt of the task {job.task_name} is empty; a language model needs one.",
            field="prompt",
        )
    return job.agent


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
