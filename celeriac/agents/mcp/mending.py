"""Answers of MCP servers that aren't quite MCP: put right before the SDK sees them.

The SDK refuses them, and a tool that worked would be reported as failed: the model would call it
again, and its effect would happen twice.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

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

Incoming = SessionMessage | Exception
Streams = tuple[Any, Any]
"""What a transport receives from, and sends to; the SDK's types of these are private."""

NOT_ASKED_FOR = "[The tool's answer is not in the form that MCP asks for; this is what it holds.]"

_BLOCK: TypeAdapter[ContentBlock] = TypeAdapter(ContentBlock)
_SYNTHESIZED = "SSE stream ended"
"""What the SDK's transport over HTTP says, in the server's name, of a connection that is lost."""


class Mending:
    """The messages of one connection."""

    def __init__(self) -> None:
        self.output_schemas: dict[str, Mapping[str, Any]] = {}
        """What the tools say that their structured answers are like, by their names.

        The SDK doesn't get to see it: it would refuse answers that are something else.
        """
        self._methods: dict[int | str, str] = {}

    @asynccontextmanager
    async def of(self, transport: AbstractAsyncContextManager[Streams]) -> AsyncIterator[Streams]:
        """Give the block the streams of `transport`, mended."""
        async with transport as (incoming, outgoing):
            yield _Incoming(incoming, self), _Outgoing(outgoing, self)

    def asked(self, message: SessionMessage) -> None:
        """Remember a request that is answered later."""
        if isinstance(message.message, JSONRPCRequest):
            self._methods[message.message.id] = message.message.method

    def mended(self, message: Incoming) -> Incoming:
        """Return a message as MCP has it."""
        if not isinstance(message, SessionMessage):
            return message
        match message.message:
            case JSONRPCError(error=error):
                self._methods.pop(message.message.id or "", None)
                # the SDK's own code for a closed connection; servers use it for what they like
                if error.code == CONNECTION_CLOSED and not error.message.startswith(_SYNTHESIZED):
                    error.code = INTERNAL_ERROR
            case JSONRPCResponse(id=request_id, result=result):
                match self._methods.pop(request_id, None):
                    case "tools/call":
                        message.message.result = _called(result)
                    case "tools/list":
                        self._listed(result)
        return message

    def _listed(self, result: dict[str, Any]) -> None:
        tools = result.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            if not isinstance(tool, dict):
                continue
            schema = tool.pop("outputSchema", None)
            if isinstance(schema, dict):
                self.output_schemas[str(tool.get("name"))] = schema


def _called(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a call with content that can be read, and structured content or none."""
    if result.get("resultType") not in (None, "complete"):
        return result  # not an answer yet
    content, structured = result.get("content"), result.get("structuredContent")
    if content is None:
        blocks = []
    else:
        blocks = [_block(each) for each in (content if isinstance(content, list) else [content])]
        if not isinstance(content, list) or blocks != content:
            blocks.append(_text(NOT_ASKED_FOR))
    mended = {**result, "content": blocks}
    if not isinstance(structured, dict):
        mended.pop("structuredContent", None)
        if structured is not None:
            blocks.append(_text(dumps(structured)))
    if not isinstance(result.get("isError"), bool):
        mended.pop("isError", None)
    return mended


def _block(block: Any) -> Any:
    """Return a block of content; what is none as text."""
    if isinstance(block, dict) and "type" in block:
        with suppress(ValidationError):
            _BLOCK.validate_python(block, by_name=False)
            return block
    return _text(block if isinstance(block, str) else dumps(block))


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


class _Incoming:
    def __init__(self, stream: Any, mending: Mending) -> None:
        self._stream = stream
        self._mending = mending

    async def receive(self) -> Incoming:
        return self._mending.mended(await self._stream.receive())

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> "_Incoming":
        return self

    async def __anext__(self) -> Incoming:
        return self._mending.mended(await self._stream.__anext__())

    async def __aenter__(self) -> "_Incoming":
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *end: Any) -> None:
        await self._stream.__aexit__(*end)

    @property
    def last_context(self) -> Any:
        return getattr(self._stream, "last_context", None)


class _Outgoing:
    def __init__(self, stream: Any, mending: Mending) -> None:
        self._stream = stream
        self._mending = mending

    async def send(self, item: SessionMessage, /) -> None:
        self._mending.asked(item)
        await self._stream.send(item)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> "_Outgoing":
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *end: Any) -> None:
        await self._stream.__aexit__(*end)
