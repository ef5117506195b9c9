"""What wraps every request, as plain ASGI: its ids, its log line, the bound of its body."""

import re
import time
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from celeriac import logs
from celeriac.api import problems
from celeriac.api.links import shown_path
from celeriac.domain.errors import TooLargeError
from celeriac.kit.ids import uuid7

logger = structlog.get_logger(__name__)

REQUEST_ID = "X-Request-ID"
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_QUIET = frozenset({"/health/live", "/health/ready", "/health/celery"})
_SERVER_ERROR = 500


class RequestContext:
    """Gives each request its id, and its answer to whatever nobody foresaw."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request: `X-Request-ID` is taken over if it is sane, and sent back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _SANE_ID.fullmatch(given) else str(uuid7())
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def respond(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        with logs.bind(request_id=request_id):
            try:
                await self._app(scope, receive, respond)
            except Exception as error:
                # the last line of defence: logged with its traceback, answered with 500
                response = problems.internal(Request(scope), error)
                if status:
                    raise  # half an answer is out: the server must break the connection
                await response(scope, receive, respond)
            finally:
                _log(scope, status, time.perf_counter() - started)


def _log(scope: Scope, status: int, seconds: float) -> None:
    values: dict[str, Any] = {
        "method": scope["method"],
        "path": shown_path(scope["path"]),
        "status": status,
        "duration_ms": round(seconds * 1000, 1),
    }
    if status >= _SERVER_ERROR:
        logger.warning("api.request", **values)
    elif scope["path"] in _QUIET:
        logger.debug("api.request", **values)
    else:
        logger.info("api.request", **values)


class BodyLimit:
    """Refuses bodies over the limit while they arrive, whatever their headers say.

    Starlette's own limiter answers in plain text, not with a problem. A body is whole before the
    application starts, so that one that is too large reaches nothing.
    """

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        """Wrap `app`; `limit` is in bytes."""
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        headers = Headers(scope=scope) if scope["type"] == "http" else {}
        if "content-length" not in headers and "transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        length = headers.get("content-length", "0")
        size = int(length) if length.isdecimal() else 0
        body = bytearray()
        more = True
        while more and size <= self._limit:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client went away
            body += message.get("body", b"")
            more = message.get("more_body", False)
            size = max(size, len(body))
        if size > self._limit:
            await self._refuse(scope, receive, send)
            return
        await self._app(scope, _replay(bytes(body), receive), send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = TooLargeError(
            f"The body is over {self._limit} bytes; send less at once.",
            field="body",
            limit=self._limit,
        )
        response = problems.of_error(Request(scope), error)
        response.headers["Connection"] = "close"  # what is left of the body is not read
        await response(scope, receive, send)


def _replay(body: bytes, receive: Receive) -> Receive:
    message: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def receive_again() -> Message:
        nonlocal message
        if message is None:
            return await receive()
        first, message = message, None
        return first

    return receive_again
