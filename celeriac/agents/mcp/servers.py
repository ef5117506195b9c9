"""The MCP servers of a worker, and the server of an agent's entry."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.network.proxy import AttemptNetwork
from celeriac.domain.agents import McpServer
from celeriac.domain.errors import AgentMisconfiguredError, ConfigurationError
from celeriac.kit.outbound import OutboundGuard
from celeriac.kit.sandbox import LoopbackPort, Sandbox
from celeriac.kit.users import OURSELVES, ChildUser

_NONE: Mapping[str, str] = MappingProxyType({})
_EVERYWHERE = OutboundGuard(allow_private=True)


@dataclass(frozen=True, slots=True)
class StdioServer:
    """A program that serves MCP over stdin and stdout; started for each run.

    It runs as `user`, in the `sandbox` if there is one, with `environment`, which holds secrets and
    is not in the repr. There it reaches `ports`.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    user: ChildUser = OURSELVES
    sandbox: Sandbox | None = None
    ports: tuple[LoopbackPort, ...] = ()


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A streamable HTTP endpoint; `guard` decides which addresses are allowed."""

    url: str
    guard: OutboundGuard
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


Endpoint = StdioServer | HttpServer


@dataclass(frozen=True, slots=True)
class ResolvedServer:
    """An agent's entry for a server, the server, and the field of the entry."""

    entry: McpServer
    endpoint: Endpoint
    field: str


class ToolServers:
    """The configured MCP servers, and URLs of agents that `guard` allows."""

    def __init__(
        self, configured: Mapping[str, Endpoint] | None = None, *, guard: OutboundGuard
    ) -> None:
        self._configured = dict(configured or {})
        self._guard = guard

    def choose(
        self, entries: Sequence[McpServer], secrets: Mapping[str, str] = _NONE
    ) -> list[ResolvedServer]:
        """Return the servers of an agent's entries; raises AgentMisconfiguredError.

        Programs also get the agent's `secrets` as variables, except those that an administrator has
        set for them.
        """
        chosen: list[ResolvedServer] = []
        for number, entry in enumerate(entries):
            place = f"mcp_servers.{number}"
            if any(entry.name == other.entry.name for other in chosen):
                raise AgentMisconfiguredError(
                    f"The agent has two MCP servers named {entry.name!r}; their names must differ.",
                    field=f"{place}.name",
                )
            endpoint = self._endpoint(entry, place)
            chosen.append(ResolvedServer(entry, _with_secrets(endpoint, secrets), place))
        return chosen

    def _endpoint(self, entry: McpServer, place: str) -> Endpoint:
        if entry.url is not None:
            return HttpServer(entry.url, self._guard)
        endpoint = self._configured.get(entry.name)
        if endpoint is None:
            known = ", ".join(sorted(self._configured)) or "none"
            raise AgentMisconfiguredError(
                f"The agent's MCP server {entry.name!r} isn't configured for this worker (known: "
                f"{known}). Add it to CELERIAC_MCP_SERVERS and restart the workers, or give the "
                "agent its url.",
                field=f"{place}.name",
            )
        return endpoint


def confined(
    chosen: Iterable[ResolvedServer], confinement: Confinement, network: AttemptNetwork
) -> list[ResolvedServer]:
    """Return the servers of an agent: those over stdio get its sandbox and its network."""

    def endpoint(each: Endpoint) -> Endpoint:
        if not isinstance(each, StdioServer):
            return each
        environment = {**each.environment, **network.environment()}
        sandbox = confinement.sandbox or each.sandbox
        return replace(each, sandbox=sandbox, environment=environment, ports=network.ports())

    return [replace(each, endpoint=endpoint(each.endpoint)) for each in chosen]


def _with_secrets(endpoint: Endpoint, secrets: Mapping[str, str]) -> Endpoint:
    if not secrets or not isinstance(endpoint, StdioServer):
        return endpoint
    return replace(endpoint, environment={**secrets, **endpoint.environment})


def programs_of(endpoints: Iterable[Endpoint]) -> list[Path]:
    """Return the absolute paths in the commands of stdio servers."""
    return [
        Path(word)
        for endpoint in endpoints
        if isinstance(endpoint, StdioServer)
        for word in endpoint.command
        if word.startswith("/")
    ]


def program(
    command: Sequence[str], variables: Sequence[str], confinement: Confinement
) -> StdioServer:
    """Return a program of the settings; it gets the `variables` of the worker that are set."""
    worker = confinement.worker
    # an administrator may name any variable, including Celeriac's
    named = {each: worker[each] for each in variables if each in worker}
    environment = {**confinement.base(), **named}
    return StdioServer(tuple(command), environment, confinement.user, confinement.sandbox)


def address(
    name: str, url: str, headers: Mapping[str, str], environment: Mapping[str, str]
) -> HttpServer:
    """Return a URL of the settings; `headers` hold the names of variables.

    Raises ConfigurationError for a header whose variable isn't set.
    """
    missing = sorted(variable for variable in headers.values() if variable not in environment)
    if missing:
        raise ConfigurationError(
            f"CELERIAC_MCP_SERVERS: the headers of {name!r} come from {', '.join(missing)}, which "
            "isn't set."
        )
    values = {header: environment[variable] for header, variable in headers.items()}
    return HttpServer(url, _EVERYWHERE, values)
