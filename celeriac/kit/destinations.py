"""Hosts and ports that programs connect to, and patterns of them: `*.pypi.org:443`."""

import re
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self

WEB_PORTS = frozenset({80, 443})
"""The ports of http:// and https://, which a pattern without a port means."""

ANY = "*"
_BELOW = "*."
_MOST_CHARACTERS = 253  # RFC 1035, 2.3.4
_MOST_PORT = 65_535
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_NUMERIC = re.compile(r"[0-9a-fx.]+")
_ENDS_IN_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")  # WHATWG URL, "ends in a number"
_HOW = "write a host, as in api.github.com, *.pypi.org or host:port"

Address = IPv4Address | IPv6Address


def literal_address(host: str) -> Address | None:
    """Return the address that `host` is, also in the short forms that resolvers accept."""
    with suppress(ValueError):
        return ip_address(host)
    if _NUMERIC.fullmatch(host):
        with suppress(OSError):
            return IPv4Address(socket.inet_aton(host))
    return None


def read_host(text: str) -> str:
    """Return a host in the one form that is compared: a name in lower case, or an address.

    An address of IPv6 may stand in brackets, and has none afterwards. Raises ValueError with what
    is wrong.
    """
    bare = text.lower()
    if bare.startswith("[") and bare.endswith("]"):
        bare = bare[1:-1]
        if ":" not in bare:
            raise ValueError(f"has brackets around what is no address of IPv6; {_HOW}")
    address = None if "%" in bare else literal_address(bare)
    if address is not None:
        return address.compressed
    name = bare.removesuffix(".")
    if len(name) > _MOST_CHARACTERS or not _NAME.fullmatch(name) or _ENDS_IN_NUMBER.fullmatch(name):
        raise ValueError(f"has no host; {_HOW}")
    return name


def read_port(text: str) -> int:
    """Return a port. Raises ValueError."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_MOST_PORT))) or not (
        1 <= int(text) <= _MOST_PORT
    ):
        raise ValueError("has a port that is not a number from 1 to 65535")
    return int(text)


def split_port(text: str) -> tuple[str, str]:
    """Return host and port of `host:port`; the port is empty if there is none."""
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        return text, ""
    return host, port


def shown(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an address of IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Destination:
    """Hosts, and ports of them, that may be connected to.

    `host` is a name, an address, `*.name` for the names below one at any depth, or `*` for any
    name. Patterns never mean addresses: each of these must be named.
    """

    host: str
    ports: frozenset[int] = WEB_PORTS

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a pattern. Raises ValueError with how to write it."""
        if not text.isascii():
            raise ValueError("must be ASCII: write the host as in a certificate, with xn--")
        if "://" in text or "/" in text:
            raise ValueError(f"must have no scheme and no path; {_HOW}")
        if text.count(":") > 1 and not text.startswith("["):
            raise ValueError("must have brackets around an address of IPv6, as in [2001:db8::1]")
        host, port = split_port(text)
        if text.endswith(":"):
            raise ValueError("has no port after the colon; leave the colon out")
        ports = frozenset({read_port(port)}) if port else WEB_PORTS
        if host == ANY:
            return cls(ANY, ports)
        if host.startswith(_BELOW):
            below = read_host(host.removeprefix(_BELOW))
            if literal_address(below) is not None:
                raise ValueError("has '*' before an address; name addresses one by one")
            return cls(_BELOW + below, ports)
        if ANY in host:
            raise ValueError("may have '*' only as its first part, as in *.pypi.org")
        return cls(read_host(host), ports)

    def allows(self, host: str, port: int) -> bool:
        """Whether a connection to `host`, in the form of `read_host`, may be made."""
        return port in self.ports and _includes(self.host, host)

    def covers(self, other: "Destination") -> bool:
        """Whether all that `other` allows is allowed."""
        return other.ports <= self.ports and _includes(self.host, other.host)


def covered(asked: Destination, bounds: Iterable[Destination]) -> bool:
    """Whether all that `asked` allows is allowed by `bounds`; its ports by one or several."""
    ports = [each.ports for each in bounds if _includes(each.host, asked.host)]
    return asked.ports <= frozenset[int]().union(*ports)


def first_uncovered(asked: Sequence[str], bounds: Sequence[str]) -> int | None:
    """Return the place of the first pattern in `asked` that `bounds` do not cover."""
    limits = [Destination.read(each) for each in bounds]
    places = (n for n, each in enumerate(asked) if not covered(Destination.read(each), limits))
    return next(places, None)


def checked(text: str) -> str:
    """Return a pattern that can be read, in lower case. Raises ValueError."""
    Destination.read(text)
    return text.lower()


def _includes(pattern: str, host: str) -> bool:
    """Whether a pattern of hosts includes a host, or all hosts of another pattern."""
    if pattern == host:
        return True
    if literal_address(host) is not None:
        return False
    if pattern == ANY:
        return True
    return pattern.startswith(_BELOW) and host.removeprefix(_BELOW).endswith(pattern[1:])
