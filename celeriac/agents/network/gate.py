"""The one place that allows or changes a request of an agent, and opens its connection."""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace

from celeriac.agents.network.report import NetworkReport, Traffic
from celeriac.agents.network.rules import (
    ConnectionRefusedByRuleError,
    NetworkRules,
    Rule,
)
from celeriac.agents.network.tls import Hello
from celeriac.domain.secrets.model import HTTP_PORT, HTTPS_PORT, HostCredential
from celeriac.kit.destinations import literal_address, read_host, shown
from celeriac.kit.threads import FILES

CONNECT_SECONDS = 10.0
_LOOKUPS = 2
"""Names of an attempt that are resolved at once: that takes a thread each."""

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request as it is sent to its host; of a tunnel, only the host and the port."""

    host: str
    port: int
    method: bytes = b"CONNECT"
    target: bytes = b""
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Upstream:
    """A connection to a destination, and where its bytes are counted."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    traffic: Traffic


class Credentials:
    """Headers that the proxy adds, so that the agent does not hold what is in them."""

    def __init__(self, credentials: Sequence[HostCredential]) -> None:
        self._of: dict[tuple[str, int], list[HostCredential]] = {}
        for each in credentials:
            self._of.setdefault((each.host, each.port), []).append(each)
        self._tls: ssl.SSLContext | None = None

    def added(self, request: Outgoing) -> Outgoing | None:
        """Return a plain request with the credentials of its host, to be sent with TLS.

        What the program itself sent in these headers is left out. None if the host has none.
        """
        found = self._of.get((request.host, request.port))
        if found is None:
            return None
        names = {each.header.lower().encode() for each in found}
        headers = [pair for pair in request.headers if pair[0].lower() not in names]
        headers += [(each.header.encode(), each.value.encode()) for each in found]
        port = HTTPS_PORT if request.port == HTTP_PORT else request.port
        return replace(request, port=port, headers=headers)

    async def tls(self) -> ssl.SSLContext:
        """Return what checks certificates; reading those of the machine takes a while."""
        if self._tls is None:
            self._tls = await FILES.run(ssl.create_default_context)
        return self._tls


class Gate:
    """The one place that allows or changes a request, and opens its connection."""

    def __init__(
        self,
        rules: NetworkRules,
        report: NetworkReport,
        credentials: Sequence[HostCredential] = (),
    ) -> None:
        """Add `credentials` to plain requests to their hosts, which are sent on with TLS."""
        self._credentials = Credentials(credentials)
        self.rules = rules
        self.report = report
        self._lookups = asyncio.Semaphore(_LOOKUPS)

    async def open(self, request: Outgoing) -> tuple[Outgoing, Upstream]:
        """Return the request to send and a connection for it.

        Raises ConnectionRefusedByRuleError, UnresolvedError, and OSError or TimeoutError where the
        destination can't be reached.
        """
        tls = None
        is_plain = request.method != b"CONNECT"
        if is_plain and (added := self._credentials.added(request)) is not None:
            request, tls = added, await self._credentials.tls()
        # exactly the addresses that were checked: a second look-up may return others
        async with asyncio.timeout(CONNECT_SECONDS), self._lookups:
            addresses = await self.rules.addresses(request.host, request.port)
        fault: OSError | None = None
        for address in addresses:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    reader, writer = await asyncio.open_connection(
                        str(address),
                        request.port,
                        ssl=tls,
                        server_hostname=None if tls is None else request.host,
                    )
            except OSError as error:
                fault = error
            else:
                if tls is None:  # with TLS, a limit of 0 would block every write
                    writer.transport.set_write_buffer_limits(0)  # what is drained is sent
                traffic = self.report.connected(request.host, request.port)
                return request, Upstream(reader, writer, traffic)
        assert fault is not None, "there is an address"
        raise fault

    def check_tls_name(self, opened: Outgoing, hello: Hello) -> None:
        """Raise ConnectionRefusedByRuleError if TLS asks for a host that is not allowed.

        Many hosts share an address: one of them must not lead to the others.
        """
        if hello.encrypted:
            raise self._other_name(opened, "asks for an encrypted name (ECH), which can't be read")
        if hello.name is None:
            if literal_address(opened.host) is not None:
                return
            raise self._other_name(opened, "names no host")
        try:
            name = read_host(hello.name)
        except ValueError:
            raise self._other_name(opened, "names no valid host") from None
        if name != opened.host and not self.rules.allows(name, opened.port):
            raise self._other_name(opened, f"asks for {name}")

    @staticmethod
    def plain_http(opened: Outgoing) -> ConnectionRefusedByRuleError:
        """Return the refusal of plain HTTP in a tunnel, where each request may name any host."""
        return ConnectionRefusedByRuleError(
            Rule.PLAIN_HTTP,
            opened.host,
            opened.port,
            f"The tunnel to {shown(opened.host, opened.port)} carries plain HTTP. Send such "
            "requests to the proxy itself, as in GET http://host/path.",
        )

    @staticmethod
    def _other_name(opened: Outgoing, what: str) -> ConnectionRefusedByRuleError:
        return ConnectionRefusedByRuleError(
            Rule.TLS_NAME,
            opened.host,
            opened.port,
            f"The connection was opened for {opened.host}, but its TLS {what}.",
        )
