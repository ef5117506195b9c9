"""Agents of the kind `crewai`."""

from typing import Literal

from pydantic import Field

from celeriac.domain.agent.base import RunnerName, Strict
from celeriac.domain.agent.crew import CrewGraph
from celeriac.domain.agent.tools import ApprovalPolicy


class CrewaiAgent(Strict):
    """A crew, run by CrewAI in a child process, in CrewAI's own virtual environment."""

    runner: Literal[RunnerName.CREWAI] = RunnerName.CREWAI
    crew: CrewGraph
    max_model_calls: int = Field(default=200, ge=1, le=10_000)
    """Ends crews that go in circles; counts the requests of all its agents."""
    approvals: ApprovalPolicy = ApprovalPolicy()
