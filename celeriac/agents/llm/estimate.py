"""How much a request to a model may use, before it is made."""

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelRequest
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings

from celeriac.agents.models import Tokens
from celeriac.kit.json_types import dumps

DEFAULT_OUTPUT_TOKENS = 4_096
"""What an answer is thought to need at most where the agent sets no `max_output_tokens`."""

_BYTES_PER_TOKEN = 3
"""Texts have more in most languages (English about four): the estimate is rather too high."""

_MESSAGE_OVERHEAD = 8


def estimate(
    messages: Sequence[ModelMessage],
    settings: ModelSettings | None,
    parameters: ModelRequestParameters,
) -> Tokens:
    """Return about the most that a request will use."""
    size = sum(map(_size, messages))
    definitions = [*parameters.function_tools, *parameters.output_tools]
    size += sum(
        _bytes([each.name, each.description, each.parameters_json_schema]) for each in definitions
    )
    if parameters.output_object is not None:
        size += _bytes(parameters.output_object.json_schema)
    limit = (settings or {}).get("max_tokens")
    return Tokens(
        input=_MESSAGE_OVERHEAD * len(messages) + _tokens(size),
        output=DEFAULT_OUTPUT_TOKENS if limit is None else limit,
    )


def least_input(messages: Sequence[ModelMessage]) -> int:
    """Return the fewest tokens that the input can have: one for each word of its texts.

    Tools, schemas and files are left out, and texts without spaces count as one word: a call that
    would fit must not be refused for an estimate.
    """
    texts = [
        content
        for message in messages
        for part in message.parts
        for content in _contents(part)
        if isinstance(content, str)
    ]
    return sum(len(each.split()) for each in texts)


def tokens_of(text: str) -> int:
    """Return about how many tokens a text has at most."""
    return _tokens(_bytes(text))


def _size(message: ModelMessage) -> int:
    size = sum(_bytes(content) for part in message.parts for content in _contents(part))
    if isinstance(message, ModelRequest) and message.instructions:
        size += _bytes(message.instructions)
    return size


def _contents(part: Any) -> Iterable[Any]:
    for name in ("content", "args", "tool_name"):
        value = getattr(part, name, None)
        if value is not None:
            yield value


def _bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode(errors="replace"))
    try:
        return len(dumps(value))
    except TypeError:
        return len(repr(value))  # such as an image: providers count these in their own ways


def _tokens(size: int) -> int:
    return -(-size // _BYTES_PER_TOKEN)
