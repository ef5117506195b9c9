"""The MCP servers of a confined language model: they run in sandboxes, and share its network."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.llm.runner import LlmRunner
from celeriac.agents.mcp.servers import StdioServer, ToolServers
from celeriac.agents.models import Prices, Provider, Providers
from celeriac.domain.agents import McpServer
from celeriac.domain.executions.events import EventType
from celeriac.kit.outbound import OutboundGuard
from tests.support.llm_jobs import llm_job, result_of
from tests.support.model_scenes import KEY
from tests.support.model_server import ModelServer
from tests.support.places import temporary_directory
from tests.support.programs import REPOSITORY
from tests.support.run_context import RecordingContext
from tests.support.sandboxes import confined_user, sandbox_for

pytestmark = pytest.mark.anyio

PROGRAM = f"""ls {{home}} >seen 2>&1; curl -s http://evil.example.com/ >said
exec {sys.executable} -m tests.support.mcp_tools"""


@pytest.fixture
def home() -> Iterator[Path]:
    with temporary_directory() as directory:
        (directory / "home" / "work" / "mine").mkdir(parents=True)
        (directory / "home" / "secrets").mkdir()
        directory.chmod(0o755)
        yield directory / "home"


async def test_a_tool_server_is_confined_and_reaches_what_its_agent_may(
    model_server: ModelServer, home: Path
) -> None:
    bounds = Confinement({}, user=confined_user(), sandbox=sandbox_for(home))
    surroundings = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)}
    server = StdioServer(
        ("sh", "-c", PROGRAM.format(home=home)), surroundings, bounds.user, bounds.sandbox
    )
    runner = LlmRunner(
        Providers([Provider(name="test", base_url=model_server.base_url, api_key=KEY)]),
        Prices({}),
        servers=ToolServers({"tools": server}, guard=OutboundGuard()),
        confinement=bounds,
    )
    context = RecordingContext(home / "work" / "mine")
    job = llm_job('use tools__add {"a": 2, "b": 3}', mcp_servers=(McpServer(name="tools"),))
    try:
        done = await runner.run(job, context)
    finally:
        await runner.aclose()

    assert result_of(done) == "5"
    assert (context.workdir / "seen").read_text() == "work\n"
    assert "evil.example.com:80" in (context.workdir / "said").read_text()
    kinds = [kind for kind, _ in context.events]
    assert kinds.count(EventType.NETWORK_REFUSED) == kinds.count(EventType.NETWORK_USED) == 1
