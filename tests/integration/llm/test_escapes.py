"""Attempts of an MCP server of a language model to leave its sandbox."""

import pytest

from celeriac.agents.llm.runner import LlmRunner
from celeriac.agents.mcp.servers import StdioServer, ToolServers
from celeriac.agents.models import Prices, Provider, Providers
from celeriac.domain.agents import McpServer
from celeriac.kit.outbound import OutboundGuard
from tests.support.llm_jobs import llm_job, result_of
from tests.support.model_scenes import KEY
from tests.support.model_server import ModelServer
from tests.support.outside import Outside, results_in
from tests.support.programs import REPOSITORY
from tests.support.run_context import RecordingContext

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("F4", "F25")]


async def test_no_attempt_of_a_tool_server_succeeds(
    outside: Outside, model_server: ModelServer
) -> None:
    bounds = outside.confinement({})
    surroundings = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)}
    command = ("sh", "-c", outside.served(memory_mb=None))
    server = StdioServer(command, surroundings, bounds.user, bounds.sandbox)
    runner = LlmRunner(
        Providers([Provider(name="test", base_url=model_server.base_url, api_key=KEY)]),
        Prices({}),
        servers=ToolServers({"tools": server}, guard=OutboundGuard()),
        confinement=bounds,
    )
    job = llm_job('use tools__add {"a": 2, "b": 3}', mcp_servers=(McpServer(name="tools"),))
    context, again = RecordingContext(outside.workdir), RecordingContext(outside.workdir)
    try:
        assert result_of(await runner.run(outside.job(job), context)) == "5"
        results = results_in(outside.workdir)
        assert result_of(await runner.run(outside.job(job), again)) == "5", "with what was left"
    finally:
        await runner.aclose()

    outside.check(results, context)
