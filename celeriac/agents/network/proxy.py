"""The proxy of one attempt: how its confined processes reach the destinations of their agent.

An HTTP proxy (RFC 9110, 9.3.6 and 9112, 3.2.2): CONNECT for TLS and everything else, which passes
unread, and plain requests. The worker accepts the connections from inside the sandbox and resolves
the names. Memory, connections and times are bounded; everything ends with the attempt.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import h11
import structlog

from celeriac.agents.network.connection import Client
from celeriac.agents.network.gate import Gate
from celeriac.agents.network.report import NetworkReport
from celeriac.agents.network.rules import NetworkRules
from celeriac.domain.errors import AgentMisconfiguredError, CeleriacError
from celeriac.domain.secrets.model import HostCredential
from celeriac.kit.sandbox import LoopbackPort
from celeriac.services.ports import RunContext

logger = structlog.get_logger(__name__)

MOST_CONNECTIONS = 64
"""Of an attempt at once; more wait until one has ended."""

_PORTS = (3128, 3129)
_REPORT_SECONDS = 2.0
_PAUSE_SECONDS = 0.1
"""After a failed accept, as where the worker has no descriptors left."""


class ForwardProxy:
    """Serves the listening sockets that come from the sandboxes of one attempt."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._places = asyncio.Semaphore(MOST_CONNECTIONS)
        self._tasks: set[asyncio.Task[Any]] = set()

    @classmethod
    @asynccontextmanager
    async def serving(
        cls,
        rules: NetworkRules,
        context: RunContext,
        credentials: Sequence[HostCredential] = (),
    ) -> AsyncIterator[Self]:
        """Serve while the block runs; connections that are open at its end are cut off.

        An event at the end lists what was reached.
        """
        report = NetworkReport(context)
        proxy = cls(Gate(rules, report, credentials))
        try:
            yield proxy
        except BaseException:
            with suppress(CeleriacError, TimeoutError):  # it must not hide what ends the attempt
                async with asyncio.timeout(_REPORT_SECONDS):
                    await proxy._end(report)
            raise
        await proxy._end(report)

    async def serve(self, listener: socket.socket) -> None:
        """Serve the connections of a listening socket, and close it at the end."""
        self._start(self._accept(listener))

    async def _end(self, report: NetworkReport) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await report.finish()

    def _start(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listener.settimeout(0)
        failing = False
        with listener:
            while True:
                await self._places.acquire()
                try:
                    accepted, _ = await loop.sock_accept(listener)
                except OSError as error:
                    if not failing:  # not ten lines a second
                        logger.warning("network.accept_failed", error=str(error))
                    failing = True
                    self._places.release()
                    await asyncio.sleep(_PAUSE_SECONDS)
                    continue
                failing = False
                task = self._start(self._converse(accepted))
                task.add_done_callback(lambda _: self._places.release())

    async def _converse(self, accepted: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=accepted)
        except BaseException:
            accepted.close()
            raise
        try:
            client = Client(reader, writer, self._gate)
            await client.serve()
            await client.linger()
        except (OSError, h11.ProtocolError):
            pass  # one side is gone or at fault, and notices it
        except CeleriacError:
            pass  # the attempt is over
        except Exception:
            logger.exception("network.connection_failed")
        finally:
            writer.transport.abort()


class AttemptNetwork:
    """What a confined child gets of its attempt's network: ports and environment variables."""

    def __init__(self, proxy: ForwardProxy | None = None) -> None:
        self._proxy = proxy

    def ports(self, *others: LoopbackPort | None) -> tuple[LoopbackPort, ...]:
        """Return the ports of a child on its own loopback: `others` and that of the proxy."""
        found = [each for each in others if each is not None]
        if self._proxy is not None:
            found.append(LoopbackPort(self._port(found), self._proxy.serve))
        return tuple(found)

    def environment(self, *others: LoopbackPort | None) -> dict[str, str]:
        """Return the variables that lead programs to the proxy, if there is one."""
        if self._proxy is None:
            return {}
        port = self._port([each for each in others if each is not None])
        url, none = f"http://127.0.0.1:{port}", "127.0.0.1,localhost,::1"
        named = {"HTTP_PROXY": url, "HTTPS_PROXY": url, "ALL_PROXY": url, "NO_PROXY": none}
        lower = {name.lower(): value for name, value in named.items()}
        return {**named, **lower, "NODE_USE_ENV_PROXY": "1"}

    @staticmethod
    def _port(others: Sequence[LoopbackPort]) -> int:
        taken = {each.port for each in others}
        return next(port for port in _PORTS if port not in taken)


@asynccontextmanager
async def serving_network(
    rules: NetworkRules | None, context: RunContext, credentials: Sequence[HostCredential] = ()
) -> AsyncIterator[AttemptNetwork]:
    """Serve the network of an attempt while the block runs; without `rules` there is none.

    Requests get the `credentials` of their hosts. Raises AgentMisconfiguredError for some without
    rules.
    """
    if rules is None and credentials:
        raise AgentMisconfiguredError(
            "The agent has secrets for hosts, which only the proxy of a confined agent adds to "
            "requests. Give it confinement.network.",
            field="confinement.network",
        )
    if rules is None:
        yield AttemptNetwork()
        return
    async with ForwardProxy.serving(rules, context, credentials) as proxy:
        yield AttemptNetwork(proxy)
