"""The claude runner on the real SDK and Claude Code, against a scripted server on the loopback."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp.server.mcpserver import MCPServer

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.claude.runner import ClaudeRunner
from celeriac.agents.mcp.servers import HttpServer, StdioServer, ToolServers
from celeriac.agents.models import AnthropicEndpoint, Price, Prices
from celeriac.kit.outbound import OutboundGuard
from tests.support import mcp_tools
from tests.support.anthropic_scenes import KEY, SCENES
from tests.support.anthropic_server import AnthropicServer
from tests.support.claude_jobs import MODEL
from tests.support.confined import confined
from tests.support.http_server import serving
from tests.support.run_context import RecordingContext

WORKER_SECRET = "a secret of the worker"
_KEPT = frozenset({"PATH", "LANG", "LC_ALL", "PYTEST_CURRENT_TEST", "PYTEST_VERSION"})


@pytest.fixture(autouse=True)
def scrubbed_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep real keys, addresses and homes away from Claude Code."""
    for name in set(os.environ) - _KEPT:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-of-nobody")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("DATABASE_URL", WORKER_SECRET)
    monkeypatch.setenv("SHOP_TOKEN", "for the shop")


@pytest.fixture(scope="session")
def scripted_anthropic() -> Iterator[AnthropicServer]:
    with AnthropicServer(SCENES).running() as server:
        yield server


@pytest.fixture
def anthropic(scripted_anthropic: AnthropicServer) -> AnthropicServer:
    """The scripted server, which has not been asked anything yet."""
    scripted_anthropic.forget()
    return scripted_anthropic


@pytest.fixture(scope="session")
def web_tools() -> Iterator[str]:
    """The address of an MCP server on the loopback, with one tool: `add`."""
    server = MCPServer("web")

    @server.tool()
    def add(a: int, b: int) -> str:
        """Add two numbers."""
        return str(a + b)

    with serving(server.streamable_http_app()) as url:
        yield f"{url}/mcp"


@pytest.fixture
def bounds() -> Confinement:
    """The bounds of Claude Code: the user of these tests, who may see one variable of a shop."""
    return confined(os.environ, "SHOP_TOKEN")


@pytest.fixture
def runner(
    anthropic: AnthropicServer, web_tools: str, tmp_path: Path, bounds: Confinement
) -> ClaudeRunner:
    """A runner with a price for its model and three MCP servers: `tools`, `web`, and `dead`."""
    prices = {"input": "2", "cached_input": "0.5", "cache_write": "4", "output": "10"}
    return ClaudeRunner(
        sessions_root=tmp_path / "sessions",
        upstream=AnthropicEndpoint(anthropic.base_url, KEY),
        prices=Prices({f"anthropic/{MODEL}": Price.model_validate(prices)}),
        servers=ToolServers(
            {
                "tools": StdioServer((sys.executable, mcp_tools.__file__), user=bounds.user),
                "web": HttpServer(web_tools, OutboundGuard(allow_private=True)),
                "dead": StdioServer((sys.executable, "-c", "raise SystemExit('no')")),
            },
            guard=OutboundGuard(),
        ),
        confinement=bounds,
    )


@pytest.fixture
def context(tmp_path: Path) -> RecordingContext:
    return RecordingContext(tmp_path / "work")
