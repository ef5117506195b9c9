"""The llm runner on the real SDK against a scripted server on the loopback."""

import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from celeriac.agents.llm.runner import LlmRunner
from celeriac.agents.llm.silence import SilenceLimits
from celeriac.agents.mcp.servers import HttpServer, StdioServer, ToolServers
from celeriac.agents.models import Price, Prices, Provider, Providers
from celeriac.embedded.home import reserve_port
from celeriac.kit.outbound import OutboundGuard
from tests.support import mcp_tools
from tests.support.http_server import serving
from tests.support.model_scenes import KEY, SCENES
from tests.support.model_server import ModelServer
from tests.support.programs import REPOSITORY
from tests.support.run_context import RecordingContext

MANNERS = """silent exits stubborn unlisted schemas many garbage flood coded noisy
    promised wrong hollow bare blank listed null""".split()
PROGRAM_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)}
OPEN = OutboundGuard(allow_private=True)

_KEPT = frozenset({"PATH", "LANG", "LC_ALL", "PYTEST_CURRENT_TEST", "PYTEST_VERSION"})


@pytest.fixture(autouse=True)
def scrubbed_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep real keys, addresses and proxies away from the SDK."""
    for name in set(os.environ) - _KEPT:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OPENAI_ORG_ID", "org-for-openai-only")


@pytest.fixture(scope="session")
def scripted_server() -> Iterator[ModelServer]:
    with ModelServer(SCENES).running() as server:
        yield server


@pytest.fixture
def model_server(scripted_server: ModelServer) -> ModelServer:
    """The scripted server, which has not been asked anything yet."""
    scripted_server.forget()
    return scripted_server


@pytest.fixture(scope="session")
def tools_url() -> Iterator[str]:
    """The address of the tools over streamable HTTP."""
    with serving(mcp_tools.server.streamable_http_app()) as url:
        yield f"{url}/mcp"


@pytest.fixture
def tool_servers() -> ToolServers:
    """`tools`, `desk`, those that misbehave, and none of the agents' own on this machine."""
    programs = {
        "tools": ("-m", "tests.support.mcp_tools"),
        "desk": ("-m", "tests.support.mcp_desk"),
        "nowhere": ("/no/such/program",),
        **{manner: ("-m", "tests.support.mcp_rogue", manner) for manner in MANNERS},
    }
    return ToolServers(
        {
            name: StdioServer((sys.executable, *arguments), PROGRAM_ENVIRONMENT)
            for name, arguments in programs.items()
        }
        | {"away": HttpServer(f"http://127.0.0.1:{reserve_port()}/mcp", OPEN)},
        guard=OutboundGuard(),
    )


@pytest.fixture
async def runner(model_server: ModelServer, tool_servers: ToolServers) -> AsyncIterator[LlmRunner]:
    """A runner for which `test` and `openai` are the scripted server, and `away` is nobody."""
    addresses = {
        "test": model_server.base_url,
        "openai": model_server.base_url,
        "away": f"http://127.0.0.1:{reserve_port()}/v1",
    }
    providers = Providers(
        Provider(name=name, base_url=address, api_key=KEY) for name, address in addresses.items()
    )
    prices = Prices(
        {"test/priced": Price.model_validate({"input": "2", "cached_input": "0.5", "output": "10"})}
    )
    patience = SilenceLimits(first=10.0, between=5.0)
    runner = LlmRunner(providers, prices, servers=tool_servers, patience=patience)
    yield runner
    await runner.aclose()


@pytest.fixture
def context(tmp_path: Path) -> RecordingContext:
    return RecordingContext(tmp_path)
