"""What goes wrong in a crew is told with its node, once, and nothing of the crew is left."""

import asyncio
import os
from pathlib import Path

import pytest

from celeriac.agents.crewai.runner import CrewaiRunner
from celeriac.agents.crewai.venv import CrewVenv
from celeriac.agents.mcp.servers import ToolServers
from celeriac.agents.models import Prices, Provider, Providers
from celeriac.domain.errors import AgentMisconfiguredError, ProviderRefusedError
from celeriac.domain.tasks import Limits
from celeriac.kit.outbound import OutboundGuard
from tests.support.confined import confined
from tests.support.crews import agent, crew, crew_job, task
from tests.support.model_scenes import KEY
from tests.support.model_server import ModelServer
from tests.support.run_context import RecordingContext
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


@pytest.mark.requirement("C6")
async def test_a_refusal_ends_the_crew_at_once_and_names_the_node(
    runner: CrewaiRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    graph = crew(task("first", "plan"), task("second", "unauthorized", "first", agent="writer"))

    with pytest.raises(ProviderRefusedError, match="Check the API key of the provider") as raised:
        await runner.run(crew_job(graph), context)

    details = raised.value.details
    assert (details["node"], details["agent"]) == ("tasks.second", "writer")
    assert details["type"] == "CrewStopError"
    assert "execute_sync" in str(details["traceback"])
    assert KEY not in str(raised.value), "what providers repeat of a key is not shown"
    assert KEY not in str(details)
    assert len(model_server.received) == 2, "nobody tries again but Celeriac"
    assert len(context.calls) == 1


@pytest.mark.requirement("C5")
async def test_a_cancelled_crew_leaves_no_process_and_asks_no_model(
    runner: CrewaiRunner, context: RecordingContext, model_server: ModelServer
) -> None:
    graph = crew(task("first", "silent"), task("second", "plan", "first"))
    running = asyncio.ensure_future(runner.run(crew_job(graph), context))
    await asyncio.to_thread(wait_until, lambda: model_server.received, "the model is asked")

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert not [line for line in command_lines() if str(context.workdir) in line]
    await asyncio.to_thread(wait_until, lambda: model_server.left, "the model is hung up on")
    assert len(model_server.received) == 1
    (call,) = context.calls
    assert call.finish_reason == "unfinished", "the call under way is settled"
    assert call.booked == context.planned[0]


def command_lines() -> list[str]:
    """The command lines and directories of all processes but this one."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                found.append(
                    f"{(process / 'cmdline').read_bytes()!r} {(process / 'cwd').readlink()}"
                )
            except OSError:
                continue
    return found


@pytest.mark.requirement("C1")
async def test_what_is_not_configured_is_told_before_anything_runs(
    runner: CrewaiRunner, context: RecordingContext
) -> None:
    unknown = {"agents": [agent("planner", model="ghost/m")], "tasks": [task("first", "plan")]}
    with pytest.raises(AgentMisconfiguredError, match=r"agents\.planner: .*'ghost'"):
        await runner.run(crew_job(unknown), context)

    no_tools = {"agents": [agent("planner", tools=["saw"])], "tasks": [task("first", "plan")]}
    with pytest.raises(AgentMisconfiguredError, match=r"agents\.planner names the tools 'saw'"):
        await runner.run(crew_job(no_tools), context)

    small = Limits(soft_seconds=80, hard_seconds=90, memory_mb=150)
    with pytest.raises(AgentMisconfiguredError, match=r"limits\.memory_mb is 150.* at least 400"):
        await runner.run(crew_job(crew(task("first", "plan")), limits=small), context)


async def test_without_crewai_the_error_says_how_to_get_it(
    context: RecordingContext, tmp_path: Path
) -> None:
    runner = CrewaiRunner(
        venv=CrewVenv(tmp_path / "nowhere"),
        providers=Providers([Provider(name="test", base_url="http://127.0.0.1:9/v1")]),
        prices=Prices(),
        servers=ToolServers(guard=OutboundGuard()),
        confinement=confined({}),
    )
    with pytest.raises(AgentMisconfiguredError, match="celeriac crews install"):
        await runner.run(crew_job(crew(task("first", "plan"))), context)
