"""The crewai runner on a real CrewAI, against a scripted server on the loopback."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.crewai.runner import CrewaiRunner
from celeriac.agents.mcp.servers import StdioServer, ToolServers
from celeriac.agents.models import Price, Prices, Provider, Providers
from celeriac.kit.outbound import OutboundGuard
from tests.support.confined import confined
from tests.support.crew_scenes import CREW_SCENES
from tests.support.crews import require_crewai
from tests.support.model_scenes import KEY
from tests.support.model_server import ModelServer
from tests.support.programs import REPOSITORY
from tests.support.run_context import RecordingContext


@pytest.fixture(scope="session")
def crew_server() -> Iterator[ModelServer]:
    with ModelServer(CREW_SCENES).running() as server:
        yield server


@pytest.fixture
def model_server(crew_server: ModelServer) -> ModelServer:
    """The scripted server, which has not been asked anything yet."""
    crew_server.forget()
    return crew_server


@pytest.fixture
def bounds() -> Confinement:
    """The bounds of crews: the user of these tests."""
    return confined({"PATH": os.environ["PATH"], "CELERIAC_SECRET_KEY": "not for children"})


@pytest.fixture
def tool_server() -> tuple[str, ...]:
    """The command of the MCP server `tools`."""
    return (sys.executable, "-m", "tests.support.mcp_tools")


@pytest.fixture
def runner(
    model_server: ModelServer, bounds: Confinement, tool_server: tuple[str, ...]
) -> CrewaiRunner:
    surroundings = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    tools = StdioServer(tool_server, surroundings, bounds.user)
    return CrewaiRunner(
        venv=require_crewai(),
        providers=Providers([Provider(name="test", base_url=model_server.base_url, api_key=KEY)]),
        prices=Prices(
            {
                "test/model": Price.model_validate(
                    {"input": "2", "cached_input": "1", "output": "10"}
                )
            }
        ),
        servers=ToolServers({"tools": tools}, guard=OutboundGuard()),
        confinement=bounds,
    )


@pytest.fixture
def context(tmp_path: Path) -> RecordingContext:
    return RecordingContext(tmp_path, hard_seconds=90)
