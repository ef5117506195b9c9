"""Crews: graphs of agents and tasks, validated before anything runs."""

from celeriac.domain.agent.crew.faults import Fault
from celeriac.domain.agent.crew.graph import CrewGraph
from celeriac.domain.agent.crew.nodes import CrewAgent, CrewTask, Process

__all__ = ["CrewAgent", "CrewGraph", "CrewTask", "Fault", "Process"]
