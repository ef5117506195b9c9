"""A model that keeps the books: every request's messages, tokens, latency, cost and end."""

import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
from pydantic_ai import RunContext as AiContext
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    SystemPromptPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from celeriac.agents.base import emit_clipped, emit_message
from celeriac.agents.llm.estimate import estimate, least_input, tokens_of
from celeriac.agents.llm.model_errors import content_filtered
from celeriac.agents.llm.silence import Watchdog
from celeriac.agents.models import ModelRef, Prices, Tokens
from celeriac.domain.budgets import MIN_ANSWER_TOKENS
from celeriac.domain.errors import BudgetSpentError, OutputInvalidError
from celeriac.domain.usage import CallEstimate, Clip, ModelCall, Reservation
from celeriac.kit.text import clip
from celeriac.logs.pipeline import Step
from celeriac.services.ports import RunContext

logger = structlog.get_logger(__name__)

MAX_SHOWN_ANSWER = 2_000
"""Characters of an unusable answer that its error shows."""

_UNFINISHED = "unfinished"
"""The finish reason of a call that was cut off: by an error, a limit or a cancellation."""


class MeteredModel(WrapperModel):
    """Wraps the model of one run: charges each call to its context and logs its messages.

    Ends the run where an answer was filtered (ContentFilteredError), and where the token limit cut
    off one that must be JSON, or left nothing of it (OutputInvalidError): no repair would help.
    """

    def __init__(
        self,
        wrapped: Model,
        *,
        choice: ModelRef,
        context: RunContext,
        watchdog: Watchdog,
        prices: Prices,
        structured: bool,
    ) -> None:
        super().__init__(wrapped)
        self.last_answer = ""
        self.truncated = False
        """Whether the token limit has cut the last answer off."""
        self._choice = choice
        self._context = context
        self._watchdog = watchdog
        self._prices = prices
        self._structured = structured

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: AiContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Ask the wrapped model, watched and metered; see `Model.request_stream`."""
        planned = estimate(messages, model_settings, model_request_parameters)
        ticket = await self._context.admit(self._planned(planned, least_input(messages)))
        bound = ticket.clip if ticket is not None else None
        if bound is not None:
            model_settings = model_settings.copy() if model_settings else ModelSettings()
            model_settings["max_tokens"] = bound.output_tokens
        await self._log_request(messages)
        began = time.monotonic()
        self._watchdog.asked()
        logger.info(
            Step.MESSAGE_SENT, provider=self._choice.provider.name, model=self._choice.model
        )
        async with AsyncExitStack() as opened:
            try:
                stream = await opened.enter_async_context(
                    self.wrapped.request_stream(
                        messages, model_settings, model_request_parameters, run_context
                    )
                )
            except BaseException:
                if ticket is not None:
                    await self._context.release(ticket)
                raise
            try:
                yield stream
            finally:
                self._watchdog.rest()
                await self._charge(stream.get(), began, planned, ticket)
        await self._close(stream.get(), bound)

    def _planned(self, tokens: Tokens, least: int = 0) -> CallEstimate:
        shortest = min(MIN_ANSWER_TOKENS, tokens.output)
        cheapest = Tokens(input=least, output=shortest, cached=least)
        return CallEstimate(
            provider=self._choice.provider.name,
            model=self._choice.model,
            input_tokens=tokens.input,
            output_tokens=tokens.output,
            cost=self._prices.cost(self._choice, tokens),
            input_cost=self._prices.cost(self._choice, Tokens(tokens.input, 0)),
            least_tokens=least + shortest,
            least_cost=self._prices.cost(self._choice, cheapest),
        )

    async def _log_request(self, messages: list[ModelMessage]) -> None:
        """Log what is said to the model now: the prompt, later what its answer lacked."""
        for part in messages[-1].parts:
            if isinstance(part, UserPromptPart) and isinstance(part.content, str):
                await emit_message(self._context, "user", part.content)
            elif isinstance(part, SystemPromptPart):
                await emit_message(self._context, "system", part.content)

    async def _charge(
        self, response: ModelResponse, began: float, planned: Tokens, ticket: Reservation | None
    ) -> None:
        usage = response.usage
        measured = _is_measured(usage)
        tokens = Tokens(
            input=usage.input_tokens,
            output=usage.output_tokens,
            cached=min(usage.cache_read_tokens, usage.input_tokens),
        )
        finished = response.finish_reason if response.state == "complete" else None
        await self._context.charge(
            ModelCall(
                provider=self._choice.provider.name,
                model=self._choice.model,
                input_tokens=tokens.input,
                output_tokens=tokens.output,
                cached_tokens=tokens.cached,
                latency_ms=round((time.monotonic() - began) * 1000),
                finish_reason=finished or _UNFINISHED,
                cost=self._prices.cost(self._choice, tokens) if measured else None,
                booked=None if measured else self._planned(_told(planned, response)),
            ),
            ticket,
        )

    async def _close(self, response: ModelResponse, bound: Clip | None) -> None:
        self.last_answer = response.text or ""
        self.truncated = response.finish_reason == "length"
        if self.last_answer or not response.tool_calls:
            await emit_message(self._context, "assistant", self.last_answer)
        if response.finish_reason == "content_filter":
            raise content_filtered(self._choice)
        if response.tool_calls:
            unusable = not all(map(_is_whole, response.tool_calls))
        else:
            unusable = self._structured or not self.last_answer.strip()
        if self.truncated and bound is not None:
            await emit_clipped(self._context, bound)
        if self.truncated and unusable and bound is not None:
            raise BudgetSpentError(
                f"The rest of the {bound.budget} cut the answer off at {bound.output_tokens:,} "
                "tokens, before it was complete. Set a larger budget."
            )
        if self.truncated and unusable:
            raise OutputInvalidError(
                f"{self._choice} reached max_output_tokens before its answer was complete. Raise "
                "the agent's max_output_tokens, or bound the lengths in the output schema.",
                answer=clip(self.last_answer, MAX_SHOWN_ANSWER),
                output_tokens=response.usage.output_tokens,
            )


def _told(planned: Tokens, response: ModelResponse) -> Tokens:
    """Return about what an answer has used whose provider doesn't say it."""
    said = response.text or ""
    return Tokens(input=planned.input, output=tokens_of(said))


def _is_whole(call: ToolCallPart) -> bool:
    try:
        call.args_as_dict(raise_if_invalid=True)
    except (AssertionError, ValueError):
        return False
    return True


def _is_measured(usage: RequestUsage) -> bool:
    """Whether the provider said what was used; some leave it out, or were cut off before it."""
    return bool(usage.input_tokens or usage.output_tokens)
