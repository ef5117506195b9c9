"""Guarded outbound HTTP: for addresses that users or agents name, not the operator.

A name is resolved here, every address is checked, and the connection goes to an address that was
checked: neither a second answer of the name server nor a redirect leads anywhere else. Whatever is
not on the public internet is refused, unless it is allowed by configuration.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from ipaddress import ip_address
from typing import cast

import httpcore2
import httpx2

from celeriac.kit.addresses import Address, OutboundGuard

__all__ = [
    "AnswerTooLargeError",
    "GuardedTransport",
    "OutboundGuard",
    "OutboundRefusedError",
    "guarded_client",
]

_CONNECT_SECONDS = 5.0


class OutboundRefusedError(httpx2.ConnectError):
    """The guard does not let a request go where it was to go."""


class AnswerTooLargeError(httpx2.ReadError):
    """A server answered with more than is read."""


def guarded_client(
    guard: OutboundGuard,
    *,
    timeout_seconds: float,
    max_bytes: int,
    https_only: bool = False,
    follow_redirects: bool = False,
    headers: dict[str, str] | None = None,
) -> httpx2.AsyncClient:
    """Return an HTTP client that goes only where `guard` allows; belongs to one event loop.

    `timeout_seconds` bounds each silence, and the connecting by at most five seconds; the caller
    bounds the whole. An answer is read up to `max_bytes`, each, and must not be compressed. Proxies
    of the environment are not used: behind one no address could be checked. Requests raise
    OutboundRefusedError, AnswerTooLargeError or another httpx2.HTTPError.
    """
    return httpx2.AsyncClient(
        transport=GuardedTransport(guard, max_bytes=max_bytes, https_only=https_only),
        timeout=httpx2.Timeout(timeout_seconds, connect=min(timeout_seconds, _CONNECT_SECONDS)),
        follow_redirects=follow_redirects,
        max_redirects=3,
        trust_env=False,
        headers={"accept-encoding": "identity", **(headers or {})},
    )


class GuardedTransport(httpx2.AsyncHTTPTransport):
    """The transport of `guarded_client`."""

    def __init__(self, guard: OutboundGuard, *, max_bytes: int, https_only: bool) -> None:
        """Go where `guard` allows; read up to `max_bytes` of each answer."""
        super().__init__()
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(),
            max_connections=20,
            max_keepalive_connections=5,
            keepalive_expiry=5.0,
            network_backend=_GuardedNetwork(guard),
        )
        self._max_bytes = max_bytes
        self._https_only = https_only

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request; redirects come here anew."""
        scheme = request.url.scheme
        if scheme != "https" and (self._https_only or scheme != "http"):
            raise OutboundRefusedError(f"{scheme}:// is not allowed here; use https://.")
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx2.DecodingError("The server compressed its answer although asked not to.")
        stream = cast("httpx2.AsyncByteStream", response.stream)
        response.stream = _Bounded(stream, self._max_bytes)
        return response


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._max_bytes
        async for part in self._stream:
            left -= len(part)
            if left < 0:
                raise AnswerTooLargeError(f"The answer is larger than {self._max_bytes} bytes.")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


class _GuardedNetwork(httpcore2.AsyncNetworkBackend):
    """Resolves, checks, and connects to an address that was checked."""

    def __init__(self, guard: OutboundGuard) -> None:
        self._guard = guard
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature of the library
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                return await self._connect(host, port, local_address, socket_options)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(f"{host} did not answer in time.") from error

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _connect(
        self,
        host: str,
        port: int,
        local_address: str | None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await _resolve(host, port)
        allowed = [address for address in addresses if self._guard.allows(host, address)]
        if not allowed:
            raise OutboundRefusedError(
                f"{host} is not on the public internet; an operator can allow it with "
                "CELERIAC_OUTBOUND_ALLOW_HOSTS."
            )
        fault: Exception | None = None
        for address in allowed:
            try:
                return await self._network.connect_tcp(
                    str(address),
                    port,
                    local_address=local_address,
                    socket_options=socket_options,
                )
            except httpcore2.ConnectError as error:
                fault = error
        raise httpcore2.ConnectError(f"{host} can't be reached: {fault}") from fault


async def _resolve(host: str, port: int) -> list[Address]:
    """Return the addresses of `host`, without repetitions, in the order of preference."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore2.ConnectError(f"{host} can't be resolved: {error}") from error
    return list(dict.fromkeys(ip_address(entry[4][0]) for entry in found))
