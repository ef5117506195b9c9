"""A crew of a worker that is root: it and its tools are somebody else."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.crewai.runner import CrewaiRunner
from tests.support.confined import AGENT_USER, agent_user, confined
from tests.support.crews import agent, crew_job, task
from tests.support.places import temporary_directory
from tests.support.run_context import RecordingContext

pytestmark = pytest.mark.anyio


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory of our own: pytest closes its own to other users whenever it is started."""
    with temporary_directory() as directory:
        yield directory


@pytest.fixture
def bounds() -> Confinement:
    return confined({"PATH": os.environ["PATH"]}, user=agent_user())


@pytest.fixture
def tool_server() -> Iterator[tuple[str, ...]]:
    """The usual one, which writes down who it is first; crews name tools by their commands."""
    text = f"#!/bin/sh\nid -un > who\nexec {sys.executable} -m tests.support.mcp_tools\n"
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
    assert not (context.workdir / ".crewai").exists()
