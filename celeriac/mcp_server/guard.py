"""Who may talk to the server over HTTP: whoever carries an API key, which the API then checks."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from celeriac.kit.jsontypes import dumps
from celeriac.mcp_server.access import bearer_key

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Scope]]
_Send = Callable[[_Scope], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]

_REFUSAL = dumps(
    {
        "error": "unauthenticated",
        "error_description": "Send an API key of Celeriac: `Authorization: Bearer cel_…`.",
    }
).encode()


class RequireKey:
    """An ASGI application before another one: requests without a key are answered 401."""

    def __init__(self, app: _App) -> None:
        """Guard `app`."""
        self._app = app

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http" or self._has_key(scope):
            await self._app(scope, receive, send)
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"www-authenticate", b'Bearer realm="celeriac"'),
        ]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": _REFUSAL})

    def _has_key(self, scope: _Scope) -> bool:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        return bearer_key(headers) is not None
