"""One connection of a program to the proxy of its attempt."""

import asyncio
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import h11

from celeriac.agents.network import plain_http
from celeriac.agents.network.gate import Gate, Headers, Outgoing, Upstream
from celeriac.agents.network.rules import (
    ConnectionRefusedByRuleError,
    Rule,
    UnresolvedError,
)
from celeriac.agents.network.tls import (
    ACCESS_DENIED,
    MOST_BYTES,
    Hello,
    Reading,
    read_hello,
)
from celeriac.domain.secrets.model import HTTP_PORT
from celeriac.kit.destinations import read_host, read_port, shown, split_port

HEAD_SECONDS = 30.0
"""For the head of a request, and for the first message of TLS."""
IDLE_SECONDS = 600.0
"""Without a byte in either direction a connection ends."""
LINGER_SECONDS = 5.0
MOST_HEAD_BYTES = 65_536

_READ = 65_536
_MOST_UNREAD_BYTES = 1024 * 1024
_BAD_REQUEST, _FORBIDDEN, _BAD_GATEWAY, _TIMEOUT = 400, 403, 502, 504
_OF_A_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)


class _BadRequestError(Exception):
    """What a program sent is no request to a proxy."""


class Client:
    """A program's connection: one tunnel, or request after request."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: Gate
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._gate = gate
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEAD_BYTES)

    async def serve(self) -> None:
        """Serve to the end. Raises OSError and h11.ProtocolError where a side is gone."""
        self._writer.transport.set_write_buffer_limits(0)
        while (head := await self._head()) is not None:
            if head.method == b"CONNECT":
                await self._tunnel(head)
                return
            await self._forward(head)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def linger(self) -> None:
        """Wait for the program to close: a reset would take our answer away before it is read."""
        left = _MOST_UNREAD_BYTES
        async with asyncio.timeout(LINGER_SECONDS):
            self._writer.write_eof()
            while left > 0 and (unread := await self._reader.read(_READ)):
                left -= len(unread)

    async def _head(self) -> h11.Request | None:
        """Return the head of the next request; None where there is none."""
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                event = await self._next_event()
        except h11.RemoteProtocolError as error:
            await self._answer(error.error_status_hint, "This is not a request of HTTP/1.1.")
            return None
        return event if isinstance(event, h11.Request) else None

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(_READ))
        return event  # type: ignore[return-value]

    async def _open(
        self, head: h11.Request, read: Callable[[h11.Request], Outgoing]
    ) -> tuple[Outgoing, Upstream] | None:
        """Open the connection of a request; None where that was answered with an error."""
        try:
            return await self._gate.open(read(head))
        except _BadRequestError as error:
            await self._answer(_BAD_REQUEST, str(error))
        except ConnectionRefusedByRuleError as refusal:
            await self._gate.report.refused(refusal)
            await self._answer(_FORBIDDEN, refusal.reason)
        except UnresolvedError as error:
            await self._answer(_BAD_GATEWAY, str(error))
        except TimeoutError:
            await self._answer(_TIMEOUT, "The host does not answer.")
        except OSError as error:
            why = error.strerror or "it closed the connection"
            await self._answer(_BAD_GATEWAY, f"The host can't be reached: {why}.")
        return None

    async def _answer(self, status: int, text: str) -> None:
        """Answer with an error. The text is also the reason: many programs show nothing else."""
        body = f"{text}\n".encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        reason = text.encode("ascii", "replace")
        await self._send(h11.Response(status_code=status, headers=headers, reason=reason))
        await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())

    async def _send(self, event: h11.Event) -> None:
        self._writer.write(self._http.send(event) or b"")
        await self._writer.drain()

    async def _tunnel(self, head: h11.Request) -> None:
        async with asyncio.timeout(HEAD_SECONDS):  # it may announce a body
            if not isinstance(await self._next_event(), h11.EndOfMessage):
                return
        opened = await self._open(head, _tunnel_of)
        if opened is None:
            return
        request, upstream = opened
        try:
            await self._send(h11.Response(status_code=200, headers=[], reason=b"Connected"))
            early = bytes(self._http.trailing_data[0])
            async with asyncio.timeout(IDLE_SECONDS) as idle, asyncio.TaskGroup() as tasks:
                tasks.create_task(self._upload(request, upstream, early, idle))
                tasks.create_task(self._download(upstream, idle))
        except* (OSError, ConnectionRefusedByRuleError) as errors:
            refusals, _ = errors.split(ConnectionRefusedByRuleError)
            if refusals is not None:
                await self._refuse_tunnel(refusals.exceptions[0])
        finally:
            upstream.writer.transport.abort()

    async def _refuse_tunnel(self, refusal: BaseException) -> None:
        assert isinstance(refusal, ConnectionRefusedByRuleError)
        await self._gate.report.refused(refusal)
        is_tls = refusal.rule is Rule.TLS_NAME
        self._writer.write(ACCESS_DENIED if is_tls else plain_http.REFUSAL)
        await self._writer.drain()
        self._writer.write_eof()

    async def _upload(
        self, request: Outgoing, upstream: Upstream, early: bytes, idle: asyncio.Timeout
    ) -> None:
        """Pass on what the program sends; the beginning only once it is known what it is."""
        chunk = await self._first_message(request, early)
        while chunk:
            upstream.writer.write(chunk)
            upstream.traffic.sent += len(chunk)
            await upstream.writer.drain()
            _keep_open(idle)
            chunk = await self._reader.read(_READ)
        upstream.writer.write_eof()

    async def _first_message(self, request: Outgoing, early: bytes) -> bytes:
        """Return the first bytes, checked. Raises ConnectionRefusedByRuleError."""
        data = early or await self._reader.read(_READ)
        async with asyncio.timeout(HEAD_SECONDS):
            while data and not _is_known(data):
                chunk = await self._reader.read(_READ)
                if not chunk:
                    break
                data += chunk
        found = read_hello(data)
        if data and found is not Reading.OTHER:
            self._gate.check_tls_name(request, found if isinstance(found, Hello) else Hello(""))
        elif plain_http.is_request(data) or (
            len(data) > MOST_BYTES and plain_http.is_request(data) is None
        ):
            raise self._gate.plain_http(request)
        return data

    async def _download(self, upstream: Upstream, idle: asyncio.Timeout) -> None:
        while chunk := await upstream.reader.read(_READ):
            self._writer.write(chunk)
            upstream.traffic.received += len(chunk)
            await self._writer.drain()
            _keep_open(idle)
        self._writer.write_eof()

    async def _forward(self, head: h11.Request) -> None:
        opened = await self._open(head, _plain_of)
        if opened is None:
            return
        request, upstream = opened
        exchange = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD_BYTES)
        try:
            async with asyncio.timeout(IDLE_SECONDS) as idle, asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(self._send_request(request, upstream, exchange, idle))
                await self._pass_response(upstream, exchange, idle)
                sending.cancel()
        except* (OSError, h11.ProtocolError):
            if self._http.our_state is h11.SEND_RESPONSE:
                await self._answer(_BAD_GATEWAY, f"{request.host} gave no proper answer.")
        finally:
            upstream.writer.transport.abort()

    async def _send_request(
        self,
        request: Outgoing,
        upstream: Upstream,
        exchange: h11.Connection,
        idle: asyncio.Timeout,
    ) -> None:
        """Send a request with its body, then watch: a program that is gone waits for no answer."""

        async def send(event: h11.Event) -> None:
            data = exchange.send(event) or b""
            upstream.writer.write(data)
            upstream.traffic.sent += len(data)
            await upstream.writer.drain()
            _keep_open(idle)

        await send(
            h11.Request(method=request.method, target=request.target, headers=list(request.headers))
        )
        while isinstance(event := await self._next_event(), h11.Data):
            await send(h11.Data(data=event.data))
        if not isinstance(event, h11.EndOfMessage):
            raise ConnectionResetError("the program is gone")
        await send(h11.EndOfMessage())
        following = await self._reader.read(_READ)
        if not following:
            raise ConnectionResetError("the program is gone")
        self._http.receive_data(following)

    async def _pass_response(
        self, upstream: Upstream, exchange: h11.Connection, idle: asyncio.Timeout
    ) -> None:
        while True:
            event = exchange.next_event()
            if event is h11.NEED_DATA:
                data = await upstream.reader.read(_READ)
                upstream.traffic.received += len(data)
                exchange.receive_data(data)
                _keep_open(idle)
            elif isinstance(event, h11.InformationalResponse | h11.Response):
                await self._send(_response(event))
            elif isinstance(event, h11.Data):
                await self._send(h11.Data(data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self._send(h11.EndOfMessage())
                return
            else:
                raise ConnectionResetError("the server is gone")


def _is_known(data: bytes) -> bool:
    """Whether enough has been sent to know what it is; too much is enough."""
    if len(data) > MOST_BYTES:
        return True
    found = read_hello(data)
    if found is Reading.OTHER:
        return plain_http.is_request(data) is not None
    return found is not Reading.INCOMPLETE


def _keep_open(idle: asyncio.Timeout) -> None:
    idle.reschedule(asyncio.get_running_loop().time() + IDLE_SECONDS)


def _target(host: str, port: str) -> tuple[str, int]:
    try:
        return read_host(host), read_port(port)
    except ValueError as error:
        raise _BadRequestError(f"The target of the request {error}.") from None


def _tunnel_of(head: h11.Request) -> Outgoing:
    """Read the request of a tunnel: `CONNECT host:port`."""
    return Outgoing(*_target(*split_port(head.target.decode("ascii"))))


def _plain_of(head: h11.Request) -> Outgoing:
    """Read a plain request: `GET http://host/path`."""
    try:
        parts = urlsplit(head.target.decode("ascii"))
    except ValueError:
        raise _BadRequestError("The target of the request is no URL.") from None
    if parts.scheme != "http" or not parts.netloc or "@" in parts.netloc:
        raise _BadRequestError(
            "This is the proxy of an agent: it takes CONNECT host:port, and requests to "
            "http://host/path without a user."
        )
    host, port = _target(*(split_port(parts.netloc)[0], split_port(parts.netloc)[1] or "80"))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    place = shown(host, port) if port != HTTP_PORT else shown(host, port).rpartition(":")[0]
    headers = [(b"host", place.encode()), *_passed_on(head.headers, b"host")]
    if _is_chunked(head.headers):
        headers.append((b"transfer-encoding", b"chunked"))
    headers.append((b"connection", b"close"))
    return Outgoing(host, port, head.method, path.encode(), headers)


def _response(event: h11.InformationalResponse | h11.Response) -> h11.Event:
    return type(event)(
        status_code=event.status_code,
        headers=list(_passed_on(event.headers)),
        reason=event.reason,
    )


def _passed_on(headers: Headers, *others: bytes) -> Sequence[tuple[bytes, bytes]]:
    """Return the headers that do not belong to one connection (RFC 9110, 7.6.1)."""
    named = {
        each.strip().lower()
        for name, value in headers
        if name == b"connection"
        for each in value.split(b",")
    }
    length = (b"content-length",) if _is_chunked(headers) else ()
    left_out = {*_OF_A_HOP, *named, *others, *length}
    return [(name, value) for name, value in headers if name.lower() not in left_out]


def _is_chunked(headers: Headers) -> bool:
    return any(name == b"transfer-encoding" for name, _ in headers)
