"""ASGI middleware for every request: request ids, log lines, allowed hosts, limits of bodies."""

import asyncio
import re
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from ipaddress import ip_address
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from celeriac import logs, traces
from celeriac.api.core import problems
from celeriac.api.core.links import PREFIX, shown_path
from celeriac.domain.errors import HostRefusedError, RequestTimeoutError, TooLargeError
from celeriac.kit.ids import uuid7
from celeriac.kit.words import counted

logger = structlog.get_logger(__name__)

REQUEST_ID = "X-Request-ID"
_VALID_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_QUIET = frozenset({"/health/live", "/health/ready", "/health/celery", "/metrics"})
_SERVER_ERROR = 500


class RequestContext:
    """Gives each request an id, logs it, and answers unexpected errors."""

    def __init__(self, app: ASGIApp, *, observe: Callable[[Scope, int, float], None]) -> None:
        """Wrap `app`; `observe` is told the status and the seconds of each request."""
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. A valid `X-Request-ID` is used, and it is part of the response."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _VALID_ID.fullmatch(given) else str(uuid7())
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def respond(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        with _traced(scope) as span, logs.bind(request_id=request_id, trace_id=traces.trace_id()):
            try:
                await self._app(scope, receive, respond)
            except Exception as error:
                # no handler knows it: logged with its traceback, answered with 500
                response = problems.internal(Request(scope), error)
                if status:
                    raise  # part of the response was sent: the server must close the connection
                await response(scope, receive, respond)
            finally:
                seconds = time.perf_counter() - started
                self._observe(scope, status, seconds)
                _log(scope, status, seconds)
                _describe(span, scope, status)


def _traced(scope: Scope) -> AbstractContextManager[traces.Span]:
    """Return the span of a request; probes have none."""
    if scope["path"] in _QUIET:
        return nullcontext(traces.Span())
    caller = Headers(scope=scope).get("traceparent")
    return traces.span(scope["method"], "server", traceparent=caller)


def _describe(span: traces.Span, scope: Scope, status: int) -> None:
    """Name the span after the template of the route: paths have ids and tokens."""
    route = getattr(scope.get("route"), "path", None)  # a router's own, without its prefix
    if route is not None and scope["path"].startswith(PREFIX) and not route.startswith(PREFIX):
        route = f"{PREFIX}{route}"
    if route is not None:
        span.rename(f"{scope['method']} {route}")
    span.note(
        **{
            "http.request.method": scope["method"],
            "http.route": route,
            "http.response.status_code": status or None,
            "celeriac.request_id": scope["state"]["request_id"],
        }
    )
    if status >= _SERVER_ERROR or not status:
        span.fails(str(status or "disconnected"))


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


class AllowedHosts:
    """Refuses requests for other hosts than this server's, as after DNS rebinding.

    Health and metrics are answered for any host: probes use addresses.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], any_address: bool) -> None:
        """Wrap `app`; in `hosts` `*` is any, `*.name` a subdomain; `any_address` adds IPs."""
        self._app = app
        self._names = frozenset(host for host in hosts if "*" not in host)
        self._within = tuple(host[1:] for host in hosts if host.startswith("*."))
        self._all = "*" in hosts
        self._any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; for another host the answer is the problem of HostRefusedError."""
        if scope["type"] != "http" or self._all or scope["path"] in _QUIET:
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).getlist("host")
        if len(given) == 1 and self._allows(host_name(given[0])):
            await self._app(scope, receive, send)
            return
        error = HostRefusedError(
            "This server doesn't answer for the host that the request names; add it to "
            "CELERIAC_ALLOWED_HOSTS, or set CELERIAC_PUBLIC_URL."
        )
        await problems.of_error(Request(scope), error)(scope, receive, send)

    def _allows(self, name: str) -> bool:
        if name in self._names or name.endswith(self._within):
            return True
        if not self._any_address:
            return False
        try:
            ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


def host_name(host: str) -> str:
    """Return the host of a `Host` header or an address, normalized for comparison."""
    name = host if host.endswith("]") or host.count(":") != 1 else host.partition(":")[0]
    if name.startswith("[") and "]:" in name:
        name = name.partition("]:")[0] + "]"
    elif ":" in name and not name.startswith("["):
        name = f"[{name}]"
    return name.lower().rstrip(".")


class RequestBody:
    """Limits the size of a body and the time until it has arrived, when it is read.

    Nothing is read in advance: a request with a bad key costs no more than what the server has
    received already. Starlette's own limiter answers in plain text, not with a problem.
    """

    def __init__(self, app: ASGIApp, *, limit: int, seconds: float) -> None:
        """Wrap `app`; `limit` is in bytes, `seconds` are for the whole body."""
        self._app = app
        self._limit = limit
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; its `receive` raises TooLargeError or RequestTimeoutError."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(Headers(scope=scope), receive, self._limit, self._seconds)

        async def respond(message: Message) -> None:
            if message["type"] == "http.response.start":
                body.answered = True
                if body.left_behind:
                    MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, body.receive, respond)


class _Body:
    """The body of one request, as it arrives."""

    def __init__(self, headers: Headers, receive: Receive, limit: int, seconds: float) -> None:
        self.answered = False
        self._receive = receive
        self._limit = limit
        self._seconds = seconds
        self._until: float | None = None
        self._whole = False
        self._size = 0
        length = headers.get("content-length", "0")
        self._declared = int(length) if length.isdecimal() and len(length) < _LENGTH_DIGITS else 0
        self._expects = "expect" in headers
        self._exists = self._declared > 0 or "transfer-encoding" in headers

    @property
    def left_behind(self) -> bool:
        """Whether the connection can't be used again after the answer.

        The server reads and drops the rest of a body within the limit. It does not wait for the
        rest of a larger one, nor for a body that the client sends only after `100 Continue`.
        """
        if self._whole or not self._exists:
            return False
        too_large = max(self._size, self._declared) > self._limit
        return too_large or (self._expects and self._until is None)

    async def receive(self) -> Message:
        """Return the next message."""
        if self._whole:
            return await self._receive()
        self._refuse_large(self._declared)
        now = time.monotonic()
        self._until = self._until or now + self._seconds
        try:
            async with asyncio.timeout(self._until - now):
                message = await self._receive()
        except TimeoutError as error:
            if self.answered:
                return {"type": "http.disconnect"}
            self._declared = self._limit + 1  # so that `left_behind` is true
            raise RequestTimeoutError(
                f"The body took longer than {counted(self._seconds, 'second')} to arrive."
            ) from error
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._refuse_large(self._size)
            self._whole = not message.get("more_body", False)
        return message

    def _refuse_large(self, size: int) -> None:
        if size > self._limit:
            raise TooLargeError(
                f"The body is over {counted(self._limit, 'byte')}; send less at once.",
                field="body",
                limit=self._limit,
            )


_LENGTH_DIGITS = 19
