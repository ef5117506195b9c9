"""Which addresses outbound requests may reach, where users or agents name them."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_IPV4_TRANSLATED = IPv6Network("::ffff:0:0:0/96")  # RFC 2765
_IPV4_COMPATIBLE = IPv6Network("::/96")  # RFC 4291, deprecated
_NOT_PUBLIC = tuple(
    ip_network(network)
    for network in (
        "64:ff9b:1::/48",  # local use of NAT64 (RFC 8215); Python 3.11 takes it for public
        "192.88.99.0/24",  # the former anycast of 6to4 (RFC 7526)
        "2001:20::/28",  # ORCHIDv2 (RFC 7343)
        "3fff::/20",  # documentation (RFC 9637)
        "5f00::/16",  # segment routing (RFC 9602)
        # What clouds serve to their own machines under public numbers: metadata and credentials
        "168.63.129.16/32",  # Azure
        "100.100.100.200/32",  # Alibaba
        "192.0.0.192/32",  # Oracle, formerly
    )
)
_LOW_32_BITS = 0xFFFFFFFF

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class OutboundGuard:
    """Which addresses outbound requests may reach."""

    allow_private: bool = False
    """Lets requests reach everything, this machine among it."""
    hosts: frozenset[str] = frozenset()
    """Names that may resolve to addresses that are not public."""
    networks: tuple[str, ...] = ()
    """Networks (CIDR) that may be reached although they are not public."""

    @classmethod
    def of(cls, *, allow_private: bool, allowed: Iterable[str]) -> Self:
        """Tell names from networks in `allowed`. Raises ValueError for a malformed network."""
        hosts, networks = set(), []
        for entry in allowed:
            try:
                networks.append(str(ip_network(entry)))
            except ValueError:
                if "/" in entry or ":" in entry:
                    raise
                hosts.add(entry.lower().rstrip("."))
        return cls(allow_private=allow_private, hosts=frozenset(hosts), networks=tuple(networks))

    def names(self, host: str) -> bool:
        """Whether `host` itself is allowed, wherever it may be: by its name, or as an address."""
        if self.allow_private or host.lower().rstrip(".") in self.hosts:
            return True
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return self._covers(address)

    def allows(self, host: str, address: Address) -> bool:
        """Whether a request to `host`, resolved to `address`, may go there."""
        return is_public(address) or self.names(host) or self._covers(address)

    def _covers(self, address: Address) -> bool:
        return any(address in ip_network(network) for network in self.networks)


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet; one that carries an IPv4 one is judged by it.

    RFC 6890 and the registries that it began; the embeddings are those of RFC 4291, 3056, 6052
    and 2765. What clouds serve to their own machines under public numbers is not public.
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
