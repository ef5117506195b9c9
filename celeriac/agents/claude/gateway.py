"""The door between Claude Code and the Messages API: one per attempt, on the loopback.

Claude Code gets this address and a key that is good for nothing else and ends with the attempt;
the real key stays here, out of the reach of its tools. Every call passes one by one: leave is
asked for it, its tokens are read off the wire, its cost is charged, a refusal is kept word by word.
So nothing rests on the SDK's running totals, nor on the prices that it makes up.
"""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self

from celeriac.agents.claude.calls import MESSAGES_PATH, Calls
from celeriac.agents.claude.http import refuse
from celeriac.agents.claude.tool_relay import ToolRelay
from celeriac.agents.mcp.servers import Chosen, HttpServer
from celeriac.agents.tape.server import Answer, Incoming, LoopbackServer

_COUNT_PATH = f"{MESSAGES_PATH}/count_tokens"


class Gateway:
    """Serves one attempt; made by `serving`."""

    def __init__(self, calls: Calls, servers: Sequence[Chosen]) -> None:
        """Pass model requests to `calls`, and requests at `/mcp/N` to the Nth of `servers`."""
        self.key = secrets.token_urlsafe(32)
        self._calls = calls
        self._tools = {
            f"/mcp/{number}": ToolRelay(each.endpoint)
            for number, each in enumerate(servers)
            if isinstance(each.endpoint, HttpServer)
        }
        self._server = LoopbackServer(self._answer)

    @property
    def base_url(self) -> str:
        """The address that Claude Code is given."""
        return f"http://127.0.0.1:{self._server.port}"

    @classmethod
    @asynccontextmanager
    async def serving(cls, calls: Calls, servers: Sequence[Chosen]) -> AsyncIterator[Self]:
        """Serve while the block runs; calls that are under way at its end are cut off."""
        gateway = cls(calls, servers)
        async with AsyncExitStack() as stack:
            for relay in gateway._tools.values():
                stack.push_async_callback(relay.aclose)
            await stack.enter_async_context(gateway._server)
            yield gateway

    async def _answer(self, incoming: Incoming, answer: Answer) -> None:
        path, _, query = incoming.target.partition("?")
        if not secrets.compare_digest(incoming.header("x-api-key").encode(), self.key.encode()):
            await refuse(answer, 401, "authentication_error", "This key is not for here.")
        elif path in self._tools:
            await self._tools[path].relay(incoming, answer)
        elif incoming.method == "POST" and path == MESSAGES_PATH:
            await self._calls.message(incoming, query, answer)
        elif incoming.method == "POST" and path == _COUNT_PATH:
            await self._calls.count(incoming, query, answer)
        else:
            await refuse(answer, 404, "not_found_error", "Only messages pass here.")
