"""A crew of a worker that is root: it and its tools are somebody else, in a sandbox."""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.crewai.runner import CrewaiRunner
from celeriac.domain.executions.events import EventType
from tests.support.confined import AGENT_USER, agent_user, confined
from tests.support.crews import agent, crew_job, task
from tests.support.places import temporary_directory
from tests.support.run_context import RecordingContext
from tests.support.sandboxes import sandbox_for

pytestmark = pytest.mark.anyio


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory of our own: pytest closes its own to other users whenever it is started."""
    with temporary_directory() as directory:
        yield directory


@pytest.fixture
def bounds(tmp_path: Path) -> Confinement:
    (tmp_path / "home").mkdir()
    tmp_path.chmod(0o755)
    bounds = confined({"PATH": os.environ["PATH"]}, user=agent_user())
    return replace(bounds, sandbox=sandbox_for(tmp_path / "home"))


@pytest.fixture
def tool_server() -> Iterator[tuple[str, ...]]:
    """The usual one, which first writes down who it is and what it reaches.

    Crews name tools by their commands.
    """
    text = f"""#!/bin/sh
    id -un >who
    curl -s http://evil.example.com/ >said
    exec {sys.executable} -m tests.support.mcp_tools
    """
    with temporary_directory() as directory:
        script = directory / "tools"
        script.write_text(text)
        script.chmod(0o755)
        yield (str(script),)


@pytest.fixture
def context(tmp_path: Path) -> RecordingContext:
    return RecordingContext(tmp_path / "work", hard_seconds=90)


async def test_a_crew_and_its_tools_run_as_the_agents_user(
    runner: CrewaiRunner, context: RecordingContext, bounds: Confinement
) -> None:
    graph = {"agents": [agent("planner", tools=["tools"])], "tasks": [task("sum", "toolbox")]}

    outcome = await runner.run(crew_job(graph), context)

    assert outcome.result == "The tool said: 5"
    assert bounds.user.ids is not None
    assert context.workdir.stat().st_uid == bounds.user.ids.user
    assert (context.workdir / "who").read_text().strip() == AGENT_USER
    assert "evil.example.com:80" in (context.workdir / "said").read_text()
    refused = [data["host"] for kind, data in context.events if kind is EventType.NETWORK_REFUSED]
    assert refused == ["evil.example.com"], "CrewAI itself asks for nothing"
    assert not (context.workdir / ".crewai").exists()
