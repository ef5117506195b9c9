"""A model that saves the conversation before it is asked to go on with results of tools."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from pydantic_ai import RunContext as AiContext
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from celeriac.agents.llm.conversation import Conversation


class CheckpointModel(WrapperModel):
    """Wraps the model of one run: a later attempt repeats no call of a tool that was answered."""

    def __init__(self, wrapped: Model, conversation: Conversation) -> None:
        super().__init__(wrapped)
        self.called_tools = False
        """Whether the last answer called tools."""
        self._conversation = conversation

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: AiContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Save what there is, then ask the wrapped model; see `Model.request_stream`."""
        # The run's own messages: `messages` are worded for this model by now. Worded once more by
        # the next attempt, the library's own words would pass for a user's.
        own = messages if run_context is None else run_context.messages
        await self._conversation.reached(own)
        async with self.wrapped.request_stream(
            messages, model_settings, model_request_parameters, run_context
        ) as stream:
            yield stream
        self.called_tools = bool(stream.get().tool_calls)
