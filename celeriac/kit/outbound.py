"""Outbound connections to the public internet only: address rules and a guarded HTTP client.

Helpers for the URLs of servers.
"""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Self, cast
from urllib.parse import urlsplit, urlunsplit

import httpcore2
import httpx2

from celeriac.kit.destinations import Address, literal_address
from celeriac.kit.urls import split_hosts
from celeriac.kit.words import counted

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_IPV4_TRANSLATED = IPv6Network("::ffff:0:0:0/96")  # RFC 2765
_IPV4_COMPATIBLE = IPv6Network("::/96")  # RFC 4291, deprecated
_NOT_PUBLIC = tuple(
    ip_network(network)
    for network in (
        "64:ff9b:1::/48",  # local use of NAT64 (RFC 8215); public for Python 3.11
        "192.88.99.0/24",  # the former anycast of 6to4 (RFC 7526)
        "2001:20::/28",  # ORCHIDv2 (RFC 7343)
        "3fff::/20",  # documentation (RFC 9637)
        "5f00::/16",  # segment routing (RFC 9602)
        # Public addresses at which clouds serve metadata and credentials to their machines
        "168.63.129.16/32",  # Azure
        "100.100.100.200/32",  # Alibaba
        "192.0.0.192/32",  # Oracle, formerly
    )
)
_LOW_32_BITS = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class OutboundGuard:
    """Which addresses outbound requests may reach."""

    allow_private: bool = False
    """Allows all addresses, including this machine."""
    hosts: frozenset[str] = frozenset()
    """Names that may resolve to non-public addresses."""
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Allowed networks that are not public."""

    @classmethod
    def of(cls, *, allow_private: bool, allowed: Iterable[str]) -> Self:
        """Sort `allowed` into names and networks. Raises ValueError for a malformed network."""
        hosts, networks = set(), []
        for entry in allowed:
            try:
                networks.append(ip_network(entry))
            except ValueError:
                if "/" in entry or ":" in entry:
                    raise
                hosts.add(entry.lower().rstrip("."))
        return cls(allow_private=allow_private, hosts=frozenset(hosts), networks=tuple(networks))

    def names(self, host: str) -> bool:
        """Whether `host`, a name or an address, is allowed wherever it is."""
        if self.allow_private or host.lower().rstrip(".") in self.hosts:
            return True
        with suppress(ValueError):
            return self.covers(ip_address(host))
        return False

    def allows(self, host: str, address: Address) -> bool:
        """Whether a request to `host`, resolved to `address`, may go there."""
        return is_public(address) or self.names(host) or self.covers(address)

    def covers(self, address: Address) -> bool:
        """Whether an address lies in an allowed network that is not public."""
        return any(address in network for network in self.networks)


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet; an embedded IPv4 address decides.

    By RFC 6890 and its registries; embeddings are those of RFC 4291, 3056, 6052 and 2765. Metadata
    addresses of clouds are not public.
    """
    if isinstance(address, IPv6Address):
        embedded = _embedded(address)
        if embedded is not None:
            return is_public(embedded)
        if address.is_site_local or address.teredo is not None:
            return False
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast


def _embedded(address: IPv6Address) -> IPv4Address | None:
    if any(address in network for network in (_NAT64, _IPV4_COMPATIBLE, _IPV4_TRANSLATED)):
        return IPv4Address(int(address) & _LOW_32_BITS)
    return address.ipv4_mapped or address.sixtofour


def network_of(address: str) -> str:
    """Return the network of one subscriber: an IPv4 address, or the first half of an IPv6 one."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        return found.ipv4_mapped.compressed if found.ipv4_mapped else found.exploded[:19]
    return found.compressed


_LOOPBACK_NAME = re.compile(r"(.*\.)?localhost\.?")
_UNWRITABLE = re.compile(r"[\x00-\x20\x7f\\]")


def refusal(guard: OutboundGuard, url: str) -> str | None:
    """Return why the text of `url` can't be the target of a request, or None.

    It must be `https://`, or `http://` with a host that `guard` names, and have a host but no user
    or password. An address that `guard` doesn't allow is refused however it is written. Names are
    resolved, and their addresses checked, by each request.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"is no URL: {error}"
    if _UNWRITABLE.search(url) or parts.scheme not in ("http", "https") or not host:
        return "must begin with https:// and a host, and have no spaces"
    if "@" in parts.netloc:
        return "must have no user and no password"
    if guard.names(host):
        return None
    if parts.scheme != "https":
        return (
            "must begin with https://, unless an operator allows its host with "
            "CELERIAC_OUTBOUND_ALLOW_HOSTS"
        )
    return _inside(guard, host)


def _inside(guard: OutboundGuard, host: str) -> str | None:
    """Return the refusal of a host that is an address or a name of this machine."""
    address = literal_address(host)
    if address is None:
        public = _LOOPBACK_NAME.fullmatch(host) is None
    else:
        public = guard.allows(host, address)
    if public:
        return None
    return (
        f"has a host that is not on the public internet ({host}); an operator can allow it with "
        "CELERIAC_OUTBOUND_ALLOW_HOSTS"
    )


_CONNECT_SECONDS = 5.0


class OutboundRefusedError(httpx2.ConnectError):
    """The guard does not allow the target of a request."""


class AnswerTooLargeError(httpx2.ReadError):
    """The answer of a server is larger than allowed."""


def guarded_client(
    guard: OutboundGuard,
    *,
    timeout_seconds: float,
    max_bytes: int,
    https_only: bool = False,
    follow_redirects: bool = False,
    headers: dict[str, str] | None = None,
    max_connections: int = 20,
) -> httpx2.AsyncClient:
    """Return an HTTP client, for one event loop, that connects only to targets that `guard` allows.

    `timeout_seconds` limits each wait; connecting is also limited to five seconds. The caller
    limits the whole request. Each answer is read up to `max_bytes` and must not be compressed.
    Proxies of the environment are not used: behind a proxy no address can be checked. Requests
    raise OutboundRefusedError, AnswerTooLargeError or another httpx2.HTTPError.
    """
    return httpx2.AsyncClient(
        transport=GuardedTransport(
            guard, max_bytes=max_bytes, https_only=https_only, max_connections=max_connections
        ),
        timeout=httpx2.Timeout(timeout_seconds, connect=min(timeout_seconds, _CONNECT_SECONDS)),
        follow_redirects=follow_redirects,
        max_redirects=3,
        trust_env=False,
        headers={"accept-encoding": "identity", **(headers or {})},
    )


class GuardedTransport(httpx2.AsyncHTTPTransport):
    """The transport of `guarded_client`."""

    def __init__(
        self,
        guard: OutboundGuard,
        *,
        max_bytes: int,
        https_only: bool,
        max_connections: int = 20,
    ) -> None:
        super().__init__()
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(),
            max_connections=max_connections,
            max_keepalive_connections=5,
            keepalive_expiry=5.0,
            network_backend=_GuardedNetwork(guard),
        )
        self._max_bytes = max_bytes
        self._https_only = https_only

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request, also each redirect."""
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
                raise AnswerTooLargeError(
                    f"The answer is larger than {counted(self._max_bytes, 'byte')}."
                )
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


class _GuardedNetwork(httpcore2.AsyncNetworkBackend):
    """Resolves a name and connects to one of its addresses that the guard allows."""

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
        options: dict[str, Any] = {
            "local_address": local_address,
            "socket_options": socket_options,
        }
        try:
            async with asyncio.timeout(timeout):
                return await self._connect(host, port, options)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(f"{host} did not answer in time.") from error

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _connect(
        self, host: str, port: int, options: dict[str, Any]
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await resolve(host, port)
        allowed = [address for address in addresses if self._guard.allows(host, address)]
        if not allowed:
            raise OutboundRefusedError(
                f"{host} is not on the public internet; an operator can allow it with "
                "CELERIAC_OUTBOUND_ALLOW_HOSTS."
            )
        fault: Exception | None = None
        for address in allowed:
            try:
                return await self._network.connect_tcp(str(address), port, **options)
            except httpcore2.ConnectError as error:
                fault = error
        raise httpcore2.ConnectError(f"{host} can't be reached: {fault}") from fault


async def resolve(host: str, port: int) -> list[Address]:
    """Return the addresses of `host`, without duplicates, in the order of preference.

    Raises httpcore2.ConnectError.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # a part of a name may be too long for the codec
        raise httpcore2.ConnectError(f"{host} can't be resolved: {error}") from error
    return list(dict.fromkeys(ip_address(entry[4][0]) for entry in found))


def addresses(url: str) -> list[str]:
    """Return the URLs in `url`: kombu takes several, separated by semicolons."""
    return _NEXT_URL.split(url)


_NEXT_URL = re.compile(r";(?=[a-z][a-z0-9+.-]*://)")


def without_password(url: str) -> str:
    """Return `url` for logs and messages, without users and passwords."""
    return ";".join(_without_password(each) for each in addresses(url))


def _without_password(url: str) -> str:
    parts = split_hosts(url)
    if "password" in parts.query:
        parts = parts._replace(query="***")
    elif "@" not in parts.netloc:
        return url
    *login, host = parts.netloc.rsplit("@", 1)
    return urlunsplit(parts._replace(netloc=f"***@{host}" if login else host))


def psycopg_url(database_url: str) -> str:
    """Return `database_url` with SQLAlchemy's psycopg 3 driver in its scheme.

    Several hosts, separated by commas (libpq's form), become parameters (SQLAlchemy's form).
    """
    for scheme in ("postgresql://", "postgres://"):
        if database_url.startswith(scheme):
            database_url = "postgresql+psycopg://" + database_url.removeprefix(scheme)
    parts = split_hosts(database_url)
    user, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts:
        return database_url
    query = "&".join([f"host={host}" for host in hosts.split(",")] + parts.query.split("&"))
    return f"{parts.scheme}://{user}{at}{parts.path}?{query.rstrip('&')}"
