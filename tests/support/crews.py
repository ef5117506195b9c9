"""Crews for tests, and the CrewAI that they run on."""

from typing import Any
from uuid import uuid4

import pytest

from celeriac.agents.crewai.venv import CrewVenv, State
from celeriac.domain.agents import CrewaiAgent
from celeriac.domain.crews import CrewGraph
from celeriac.domain.tasks import Limits
from celeriac.kit.json_types import JsonObject
from celeriac.services.ports import Job
from tests.support.programs import REPOSITORY

VENV = CrewVenv(REPOSITORY / ".venv-crewai")
"""What `make crews` builds, and `make test` before it begins."""


def require_crewai() -> CrewVenv:
    """Return CrewAI's environment; fail where it isn't there, so that no crew goes untested."""
    if VENV.state() is not State.READY:
        pytest.fail(f"{VENV.describe()} For the tests: make crews")
    return VENV


def agent(name: str, **more: Any) -> dict[str, Any]:
    """Return an agent node whose role is its name."""
    node = {"id": name, "role": name.title(), "goal": "Do well.", "model": "test/model"}
    return {**node, **more}


def task(name: str, scene: str, *context: str, **more: Any) -> dict[str, Any]:
    """Return a task node that has the scripted server play `scene`."""
    return {
        "id": name,
        "description": f"{scene} it",
        "expected_output": "A sentence.",
        "agent": "planner",
        "context": list(context),
        **more,
    }


def crew(*tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a graph whose agents are a planner and whom the tasks name."""
    names = dict.fromkeys(each["agent"] for each in tasks if each["agent"])
    agents = [agent(name) for name in names] or [agent("planner")]
    return {"agents": agents, "tasks": list(tasks), **more}


def crew_job(
    graph: dict[str, Any],
    *,
    limits: Limits | None = None,
    schema: JsonObject | None = None,
    max_model_calls: int = 20,
    may_label: bool = False,
    **variables: Any,
) -> Job:
    """Return a job of one attempt."""
    return Job(
        execution_id=uuid4(),
        attempt=1,
        task_name="test",
        agent_name="tester",
        agent=CrewaiAgent(
            crew=CrewGraph.model_validate(graph),
            max_model_calls=max_model_calls,
            may_label=may_label,
        ),
        prompt="",
        variables=variables,
        output_schema=schema,
        limits=limits or Limits(soft_seconds=80, hard_seconds=90),
    )
