"""Runners are made when they are needed, once, and closed on their loop."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.mcp.servers import ToolServers
from celeriac.agents.models import AnthropicEndpoint, Prices, Provider, Providers
from celeriac.agents.registry import Registry
from celeriac.domain.agents import LlmAgent, PythonAgent
from celeriac.domain.executions.model import Completed
from celeriac.kit.loop import LoopThread
from celeriac.kit.outbound import OutboundGuard
from tests.support.llm_jobs import llm_job
from tests.support.model_server import ModelServer
from tests.support.run_context import RecordingContext
from tests.support.waiting import wait_until

LLM = LlmAgent(model="test/model")

_LOADED = """
import json, sys
from pathlib import Path
from celeriac.agents.child.confinement import Confinement
from celeriac.agents.models import AnthropicEndpoint
from celeriac.agents.mcp.servers import ToolServers
from celeriac.agents.models import Prices
from celeriac.agents.models import Providers
from celeriac.agents.registry import Registry
from celeriac.domain.agents import LlmAgent, PythonAgent
from celeriac.kit.outbound import OutboundGuard

registry = Registry(
    providers=Providers([]), prices=Prices(), agent_modules=(), commands={},
    tool_servers=ToolServers(guard=OutboundGuard()), crewai_venv=Path("crewai"),
    anthropic=AnthropicEndpoint("http://127.0.0.1:1"), sessions_root=Path("sessions"),
    confinement=Confinement({}),
)
sdks = ("claude_agent_sdk", "pydantic_ai", "openai", "genai_prices", "mcp")
loaded = lambda: [name for name in sdks if name in sys.modules]
before = loaded()
registry.get(PythonAgent(function="shop.agents:score"))
between = loaded()
registry.get(LlmAgent(model="test/model"))
print(json.dumps([before, between, loaded()]))
"""


def registry(base_url: str) -> Registry:
    providers = Providers([Provider(name="test", base_url=base_url)])
    return Registry(
        providers=providers,
        prices=Prices(),
        agent_modules=(),
        commands={},
        tool_servers=ToolServers(guard=OutboundGuard()),
        crewai_venv=Path("crewai"),
        anthropic=AnthropicEndpoint("http://127.0.0.1:1"),
        sessions_root=Path("sessions"),
        confinement=Confinement({}),
    )


def test_the_model_library_is_loaded_for_the_first_llm_agent_and_not_before(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", _LOADED],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert child.returncode == 0, child.stderr
    before, between, after = json.loads(child.stdout)
    assert (before, between) == ([], [])
    assert set(after) == {"pydantic_ai", "openai", "genai_prices"}, "MCP comes with the first tool"


def test_a_runner_is_made_once_however_many_ask(model_server: ModelServer) -> None:
    made = registry(model_server.base_url)

    with ThreadPoolExecutor(8) as threads:
        runners = set(threads.map(lambda _: made.get(LLM), range(32)))

    assert len(runners) == 1
    assert made.get(PythonAgent(function="shop.agents:score")) not in runners


def test_warming_makes_all_of_them_in_the_background(model_server: ModelServer) -> None:
    made = registry(model_server.base_url)

    made.warm().join(timeout=60)

    assert made.get(LLM).name == "llm"


def test_closing_closes_the_connections_on_their_loop(
    model_server: ModelServer, context: RecordingContext
) -> None:
    made = registry(model_server.base_url)
    loop = LoopThread()
    try:
        for _ in range(2):
            running = loop.start(made.get(LLM).run(llm_job("plain"), context))
            running.wait(20)
            assert running.result() == Completed("Hello there, friend.")
            made.close(loop)
        wait_until(lambda: len(model_server.received) == 2, "a closed registry may be used again")
    finally:
        loop.close()


def test_nothing_is_made_at_import_or_by_the_registry_itself(model_server: ModelServer) -> None:
    loop = LoopThread()
    registry(model_server.base_url).close(loop)
    loop.close()
    assert model_server.received == []
