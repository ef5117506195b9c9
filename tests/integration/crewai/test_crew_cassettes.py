"""Runs of crews are recorded and replayed."""

from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from celeriac.agents.crewai.runner import CrewaiRunner
from celeriac.agents.mcp.servers import ToolServers
from celeriac.agents.models import Prices, Providers
from celeriac.domain.cassettes import dump, parse
from celeriac.domain.executions.options import RunOptions
from celeriac.kit.outbound import OutboundGuard
from tests.support.confined import confined
from tests.support.crews import crew, crew_job, require_crewai, task
from tests.support.model_scenes import KEY
from tests.support.model_server import ModelServer
from tests.support.run_context import RecordingContext

pytestmark = pytest.mark.anyio


async def test_a_recorded_crew_is_played_without_a_provider(
    runner: CrewaiRunner, context: RecordingContext, model_server: ModelServer, tmp_path: Path
) -> None:
    graph = crew(task("first", "plan"), task("second", "draft", "first", agent="writer"))
    job = crew_job(graph)
    recorded = await runner.run(replace(job, options=RunOptions(record=True)), context)
    assert len(context.recorded.interactions) == len(model_server.received) == 2
    assert KEY not in dump(context.recorded)

    nobody = CrewaiRunner(
        venv=require_crewai(),
        providers=Providers([]),
        prices=Prices({}),
        servers=ToolServers(guard=OutboundGuard()),
        confinement=confined({"PATH": "/usr/bin:/bin"}),
    )
    playing = RecordingContext(tmp_path / "elsewhere", hard_seconds=90)
    playing.played = parse(dump(context.recorded))
    played = await nobody.run(
        replace(crew_job(graph), options=RunOptions(cassette_id=uuid4())), playing
    )
    assert played == recorded
    assert len(model_server.received) == 2, "nothing was asked of the provider"
    assert [call.output_tokens for call in playing.calls] == [
        call.output_tokens for call in context.calls
    ]
