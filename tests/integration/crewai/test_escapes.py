"""Attempts of a crew's tool server, which runs in the crew's sandbox, to leave it."""

import os
from collections.abc import Iterator

import pytest

from celeriac.agents.child.confinement import Confinement
from celeriac.agents.crewai.runner import CrewaiRunner
from celeriac.domain.tasks import Limits
from tests.support.crews import agent, crew_job, task
from tests.support.outside import Outside, results_in
from tests.support.places import temporary_directory
from tests.support.run_context import RecordingContext

pytestmark = [pytest.mark.anyio, pytest.mark.requirement("F4", "F25")]

MEMORY_MB = 700


@pytest.fixture
def bounds(outside: Outside) -> Confinement:
    return outside.confinement({"PATH": os.environ["PATH"]})


@pytest.fixture
def tool_server(outside: Outside) -> Iterator[tuple[str, ...]]:
    with temporary_directory() as directory:
        script = directory / "tools"
        script.write_text(outside.served(memory_mb=MEMORY_MB))
        script.chmod(0o755)
        yield (str(script),)


async def test_no_attempt_of_a_crew_succeeds(outside: Outside, runner: CrewaiRunner) -> None:
    graph = {"agents": [agent("planner", tools=["tools"])], "tasks": [task("sum", "toolbox")]}
    limits = Limits(soft_seconds=80, hard_seconds=90, memory_mb=MEMORY_MB)
    job = outside.job(crew_job(graph, limits=limits))
    context = RecordingContext(outside.workdir, hard_seconds=90)

    done = await runner.run(job, context)

    assert done.result == "The tool said: 5"
    outside.check(results_in(outside.workdir), context)
