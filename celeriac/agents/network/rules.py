"""Which destinations the processes of an agent reach."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address

import httpcore2
import psutil

from celeriac.domain.errors import WorkerMisconfiguredError
from celeriac.kit.destinations import Address, Destination, first_uncovered, shown
from celeriac.kit.outbound import OutboundGuard, is_public, resolve

HOSTS = "CELERIAC_CONFINEMENT_HOSTS"
DEFAULT_HOSTS = "CELERIAC_CONFINEMENT_DEFAULT_HOSTS"
PRIVATE_HOSTS = "CELERIAC_CONFINEMENT_PRIVATE_HOSTS"


class Rule(StrEnum):
    """Why a connection is refused. Names are part of the API; documented in docs/events.md."""

    NOT_ALLOWED = "not_allowed"
    """No pattern allows the host and the port."""
    PRIVATE_ADDRESS = "private_address"
    """The host is allowed, but is on this machine or in a private network."""
    TLS_NAME = "tls_name"
    """The connection is opened for one host, and its TLS asks for another."""
    PLAIN_HTTP = "plain_http"
    """A tunnel carries plain HTTP, whose requests could name other hosts."""


class ConnectionRefusedByRuleError(Exception):
    """A destination is not allowed; `reason` is for readers of the log and for the program."""

    def __init__(self, rule: Rule, host: str, port: int, reason: str) -> None:
        super().__init__(reason)
        self.rule = rule
        self.host = host
        self.port = port
        self.reason = reason


class UnresolvedError(Exception):
    """A host has no address."""


@dataclass(frozen=True, slots=True)
class NetworkRules:
    """The destinations that an agent reaches; `guard` says which of them may be private."""

    allowed: tuple[Destination, ...]
    guard: OutboundGuard
    named: bool
    """Whether the agent names them itself, rather than having the worker's default."""

    def allows(self, host: str, port: int) -> bool:
        """Whether a pattern allows a host, in the form of `read_host`, and a port."""
        return any(each.allows(host, port) for each in self.allowed)

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Return the addresses to which a connection to `host` may go; there is at least one.

        A caller must connect to one of these: the name may soon have others. Raises
        ConnectionRefusedByRuleError, and UnresolvedError. Names that no pattern allows are not
        resolved.
        """
        if not self.allows(host, port):
            raise ConnectionRefusedByRuleError(
                Rule.NOT_ALLOWED, host, port, self._why_not_allowed(shown(host, port))
            )
        try:
            found = await resolve(host, port)
        except httpcore2.ConnectError as error:
            raise UnresolvedError(f"{host} can't be resolved.") from error
        own = _own_addresses()
        usable = [each for each in found if self._may_reach(host, each, own)]
        if not usable:
            raise ConnectionRefusedByRuleError(
                Rule.PRIVATE_ADDRESS,
                host,
                port,
                f"{host} is not on the public internet. An administrator can allow it with "
                f"{PRIVATE_HOSTS} of the worker.",
            )
        return usable

    def _may_reach(self, host: str, address: Address, own: frozenset[Address]) -> bool:
        if self.guard.names(host) or self.guard.covers(address):
            return True
        # what serves this machine alone is often reached at its public address, too
        return is_public(address) and address not in own

    def _why_not_allowed(self, target: str) -> str:
        if self.named:
            return f"The agent's confinement.network does not name {target}."
        return (
            f"The agent's confinement.network names no destinations, and {DEFAULT_HOSTS} of the "
            f"worker does not name {target}."
        )


@dataclass(frozen=True, slots=True)
class NetworkBounds:
    """What agents may ask of a worker: `hosts` at most (None: any), and `default` if they don't."""

    hosts: tuple[str, ...] | None = ()
    default: tuple[str, ...] = ()
    guard: OutboundGuard = field(default_factory=OutboundGuard)

    def rules(self, asked: Sequence[str] | None) -> NetworkRules:
        """Return the rules of an agent that names the destinations `asked`; None: it names none.

        Raises WorkerMisconfiguredError for one that the worker does not allow.
        """
        place = None
        if asked is not None and self.hosts is not None:
            place = first_uncovered(asked, self.hosts)
        if asked is not None and place is not None:
            allowed = ", ".join(self.hosts or ()) or "none"
            raise WorkerMisconfiguredError(
                f"The agent's confinement.network has {asked[place]!r}, which this worker does "
                f"not allow agents (allowed: {allowed}). Leave it out, or have an administrator "
                f"add it to {HOSTS} of the workers.",
                field=f"confinement.network.{place}",
            )
        patterns = self.default if asked is None else asked
        destinations = tuple(Destination.read(each) for each in patterns)
        return NetworkRules(destinations, self.guard, named=asked is not None)


def _own_addresses() -> frozenset[Address]:
    """Return the addresses of this machine's interfaces."""
    found = set()
    for interface in psutil.net_if_addrs().values():
        for each in interface:
            try:
                found.add(ip_address(each.address.partition("%")[0]))
            except ValueError:
                continue  # a hardware address
    return frozenset(found)
