"""The model of one run, wrapped: its messages are saved and logged, its answers judged."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog
from pydantic_ai import RunContext as AiContext
from pydantic_ai import exceptions as ai
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

from celeriac.agents.base import emit_message
from celeriac.agents.gateway.calls import ModelCalls
from celeriac.agents.gateway.errors import content_filtered
from celeriac.agents.llm.conversation import Conversation
from celeriac.agents.llm.silence import Watchdog
from celeriac.agents.models import ModelRef, Prices
from celeriac.domain.errors import BudgetSpentError, OutputInvalidError
from celeriac.kit.text import clip
from celeriac.logs import Step
from celeriac.services.ports import RunContext

logger = structlog.get_logger(__name__)

MAX_SHOWN_ANSWER = 2_000
"""Characters of an unusable answer that its error shows."""


class LoggedModel(WrapperModel):
    """Wraps the model of one run: results of tools are saved before each request.

    Ends the run where an answer was filtered (ContentFilteredError), and where the token limit cut
    off one that must be JSON, or left nothing of it (OutputInvalidError): no repair would help.
    """

    def __init__(
        self,
        wrapped: Model,
        *,
        choice: ModelRef,
        context: RunContext,
        conversation: Conversation,
        watchdog: Watchdog,
        prices: Prices,
        structured: bool,
    ) -> None:
        super().__init__(wrapped)
        self.calls = ModelCalls(context, prices, watch=watchdog, on_admitted=self._log_request)
        """The run's model calls."""
        self.last_answer = ""
        self.truncated = False
        """Whether the token limit has cut the last answer off."""
        self.called_tools = False
        """Whether the last answer called tools."""
        self._conversation = conversation
        self._choice = choice
        self._context = context
        self._structured = structured
        self._messages: list[ModelMessage] = []

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: AiContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Save the conversation, then ask the wrapped model; see `Model.request_stream`."""
        # The run's own messages: `messages` were prepared for this model. Prepared again by the
        # next attempt, the library's texts would pass for a user's.
        own = messages if run_context is None else run_context.messages
        await self._conversation.checkpoint(own)
        self._messages = messages
        async with AsyncExitStack() as opened:
            try:
                stream = await opened.enter_async_context(
                    self.wrapped.request_stream(
                        messages, model_settings, model_request_parameters, run_context
                    )
                )
            except ai.ModelAPIError:
                # the SDK takes what the HTTP client raised for a lost connection
                if self.calls.stopped is not None:
                    raise self.calls.stopped from None
                raise
            yield stream
        await self._close(stream.get())
        self.called_tools = bool(stream.get().tool_calls)

    async def _log_request(self) -> None:
        """Log the newest messages to the model: the prompt, later what its answer lacked."""
        for part in self._messages[-1].parts:
            if isinstance(part, UserPromptPart) and isinstance(part.content, str):
                await emit_message(self._context, "user", part.content)
            elif isinstance(part, SystemPromptPart):
                await emit_message(self._context, "system", part.content)
        logger.info(
            Step.MESSAGE_SENT, provider=self._choice.provider.name, model=self._choice.model
        )

    async def _close(self, response: ModelResponse) -> None:
        bound = self.calls.clip
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
        if not (self.truncated and unusable):
            return
        if bound is not None:
            raise BudgetSpentError(
                f"The rest of the {bound.budget} cut the answer off at {bound.output_tokens:,} "
                "tokens, before it was complete. Set a larger budget."
            )
        raise OutputInvalidError(
            f"{self._choice} reached max_output_tokens before its answer was complete. Raise "
            "the agent's max_output_tokens, or bound the lengths in the output schema.",
            answer=clip(self.last_answer, MAX_SHOWN_ANSWER),
            output_tokens=response.usage.output_tokens,
        )


def _is_whole(call: ToolCallPart) -> bool:
    try:
        call.args_as_dict(raise_if_invalid=True)
    except (AssertionError, ValueError):
        return False
    return True
