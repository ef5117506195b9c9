"""Corrects answers of MCP servers that deviate from MCP, before the SDK validates them.

The SDK refuses such answers. A tool that had worked would be reported as failed, the model would
call it again, and its effect would happen twice.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Self

from mcp.shared.message import SessionMessage
from mcp_types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    ContentBlock,
    JSONRPCError,
    JSONRPCRequest,
    JSONRPCResponse,
)
from pydantic import TypeAdapter, ValidationError

from celeriac.kit.json_types import dumps

Streams = tuple[Any, Any]
"""The streams that a transport receives from and sends to; the SDK's types are private."""

NOT_MCP = "[The tool's answer does not have the form of MCP; this is its content.]"

_BLOCK: TypeAdapter[ContentBlock] = TypeAdapter(ContentBlock)
_SYNTHESIZED = "SSE stream ended"
"""The error of the SDK's HTTP transport when a connection is lost."""


class Corrections:
    """Corrects the messages of one connection."""

    def __init__(self) -> None:
        self.output_schemas: dict[str, Mapping[str, Any]] = {}
        """The output schemas of the tools, by name.

        They are removed from the SDK's list of tools: it refuses answers that violate them.
        """
        self._methods: dict[int | str, str] = {}

    @asynccontextmanager
    async def wrap(self, transport: AbstractAsyncContextManager[Streams]) -> AsyncIterator[Streams]:
        """Yield the streams of `transport`; the messages received from them are corrected."""
        async with transport as (incoming, outgoing):
            yield _Stream(incoming, self._correct), _Stream(outgoing, self._note)

    def _note(self, message: SessionMessage) -> SessionMessage:
        if isinstance(message.message, JSONRPCRequest):
            self._methods[message.message.id] = message.message.method
        return message

    def _correct(self, message: SessionMessage | Exception) -> SessionMessage | Exception:
        if not isinstance(message, SessionMessage):
            return message
        match message.message:
            case JSONRPCError(error=error):
                self._methods.pop(message.message.id or "", None)
                # the SDK's code for a closed connection, which servers use for other errors
                if error.code == CONNECTION_CLOSED and not error.message.startswith(_SYNTHESIZED):
                    error.code = INTERNAL_ERROR
            case JSONRPCResponse(id=request_id, result=result):
                match self._methods.pop(request_id, None):
                    case "tools/call":
                        message.message.result = _corrected_call(result)
                    case "tools/list":
                        self._take_schemas(result)
        return message

    def _take_schemas(self, result: dict[str, Any]) -> None:
        tools = result.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            if not isinstance(tool, dict):
                continue
            schema = tool.pop("outputSchema", None)
            if isinstance(schema, dict):
                self.output_schemas[str(tool.get("name"))] = schema


def _corrected_call(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a call with valid content, and structured content or none."""
    if result.get("resultType") not in (None, "complete"):
        return result  # not the final answer
    content, structured = result.get("content"), result.get("structuredContent")
    if content is None:
        blocks = []
    else:
        blocks = [_block(each) for each in (content if isinstance(content, list) else [content])]
        if not isinstance(content, list) or blocks != content:
            blocks.append(_text(NOT_MCP))
    corrected = {**result, "content": blocks}
    if not isinstance(structured, dict):
        corrected.pop("structuredContent", None)
        if structured is not None:
            blocks.append(_text(dumps(structured)))
    if not isinstance(result.get("isError"), bool):
        corrected.pop("isError", None)
    return corrected


def _block(block: Any) -> Any:
    """Return a valid block of content as it is, any other value as text."""
    if isinstance(block, dict) and "type" in block:
        with suppress(ValidationError):
            _BLOCK.validate_python(block, by_name=False)
            return block
    return _text(block if isinstance(block, str) else dumps(block))


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


class _Stream:
    """A stream of the SDK whose messages pass through a function."""

    def __init__(self, stream: Any, apply: Callable[[Any], Any]) -> None:
        self._stream = stream
        self._apply = apply

    async def send(self, item: Any, /) -> None:
        await self._stream.send(self._apply(item))

    async def receive(self) -> Any:
        return self._apply(await self._stream.receive())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return self._apply(await self._stream.__anext__())

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *end: Any) -> None:
        await self._stream.__aexit__(*end)

    def __getattr__(self, name: str) -> Any:
        """Return what else the SDK uses: `aclose`, and `last_context` if there is one."""
        return getattr(self._stream, name)
