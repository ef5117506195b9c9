"""What a request to a model is thought to use."""

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from celeriac.agents.llm.estimate import DEFAULT_OUTPUT_TOKENS, estimate, tokens_of

NOTHING_ELSE = ModelRequestParameters()


def asked(text: str, instructions: str | None = None) -> ModelRequest:
    return ModelRequest(parts=[UserPromptPart(text)], instructions=instructions)


def test_output_is_what_the_agent_may_say() -> None:
    messages = [asked("Hello")]
    assert estimate(messages, None, NOTHING_ELSE).output == DEFAULT_OUTPUT_TOKENS
    assert estimate(messages, ModelSettings(max_tokens=7), NOTHING_ELSE).output == 7


def test_input_grows_with_all_that_is_sent() -> None:
    tool = ToolDefinition(
        name="search", description="d" * 300, parameters_json_schema={"type": "object"}
    )
    short = estimate([asked("Hello")], None, NOTHING_ELSE).input
    instructed = estimate([asked("Hello", "i" * 300)], None, NOTHING_ELSE).input
    talked: list[ModelMessage] = [
        asked("Hello"),
        ModelResponse(parts=[TextPart("t" * 300)]),
        asked("Go on"),
    ]
    called = ModelResponse(parts=[ToolCallPart("search", {"q": "x" * 300})])
    with_tools = ModelRequestParameters(function_tools=[tool])

    assert instructed >= short + 100
    assert estimate(talked, None, NOTHING_ELSE).input >= short + 100
    assert estimate([asked("Hello"), called], None, NOTHING_ELSE).input >= short + 100
    assert estimate([asked("Hello")], None, with_tools).input >= short + 100


def test_texts_of_all_scripts_are_thought_longer_than_they_are() -> None:
    assert tokens_of("The quick brown fox jumps over the lazy dog.") >= 10
    assert tokens_of("素早い茶色の狐") >= 7
    assert tokens_of("\udce9") == 1, "a lone surrogate is some text, not an error"
    assert tokens_of("") == 0
