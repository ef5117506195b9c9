"""The MCP server of examples/tools, used by a model."""

import os
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import pytest

from celeriac.agents.llm.runner import LlmRunner
from celeriac.agents.mcp.servers import StdioServer, ToolServers
from celeriac.agents.models import Prices, Provider, Providers
from celeriac.domain.agents import McpServer
from celeriac.domain.executions.model import Parked
from celeriac.kit.outbound import OutboundGuard
from tests.support.llm_jobs import llm_job, result_of
from tests.support.model_scenes import KEY
from tests.support.model_server import ModelServer
from tests.support.programs import REPOSITORY
from tests.support.run_context import RecordingContext

pytestmark = pytest.mark.anyio

EXAMPLE = REPOSITORY / "examples" / "tools" / "orders.py"


@pytest.fixture
async def shop(model_server: ModelServer) -> AsyncIterator[LlmRunner]:
    """A runner whose only MCP server is the example, as its docstring configures it."""
    program = StdioServer((sys.executable, str(EXAMPLE)), {"PATH": os.environ["PATH"]})
    provider = Provider(name="test", base_url=model_server.base_url, api_key=KEY)
    servers = ToolServers({"orders": program}, guard=OutboundGuard())
    runner = LlmRunner(Providers([provider]), Prices({}), servers=servers)
    yield runner
    await runner.aclose()


def agent(**entry: Any) -> dict[str, Any]:
    return {"mcp_servers": (McpServer(name="orders", **entry),)}


async def test_the_example_finds_orders(shop: LlmRunner, context: RecordingContext) -> None:
    found = await shop.run(llm_job('use orders__find_order {"number": "A7"}', **agent()), context)
    assert "a green teapot" in str(result_of(found))
    missing = await shop.run(llm_job('use orders__find_order {"number": "Z"}', **agent()), context)
    assert "There is no order Z." in str(result_of(missing))


async def test_a_repeated_call_of_the_example_refunds_once(
    shop: LlmRunner, context: RecordingContext
) -> None:
    job = llm_job('use orders__refund {"number": "A7", "cents": 450}', **agent())
    first = await shop.run(job, context)
    again = await shop.run(job, context)  # as after the death of a worker during the call

    assert result_of(first) == "Refunded 450 cents of order A7."
    assert "already been refunded" in str(result_of(again))
    with closing(sqlite3.connect(context.workdir / "refunds.sqlite")) as database:
        assert database.execute("SELECT cents FROM refunds").fetchall() == [(450,)]


async def test_a_person_approves_a_refund(shop: LlmRunner, context: RecordingContext) -> None:
    spec = agent(approve_tools=("refund",))
    asked = await shop.run(
        llm_job('use orders__refund {"number": "A7", "cents": 450}', **spec), context
    )
    assert isinstance(asked, Parked)
    assert asked.questions[0].arguments == {"number": "A7", "cents": 450}


def test_the_page_names_the_example() -> None:
    assert "(../examples/tools/orders.py)" in (REPOSITORY / "docs" / "tools.md").read_text()
