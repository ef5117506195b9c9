"""Specifications of agents. They are immutable; a change creates a new version."""

from typing import Annotated

from pydantic import Field

from celeriac.domain.agents.base import Label, Name, RunnerName, Strict, VariableNames, Word
from celeriac.domain.agents.crews import CrewGraph
from celeriac.domain.agents.runners import (
    ApprovalPolicy,
    ClaudeAgent,
    CommandAgent,
    CrewaiAgent,
    FunctionPath,
    LlmAgent,
    McpServer,
    McpServers,
    Permission,
    PythonAgent,
    ToolPatterns,
)

AgentSpec = Annotated[
    LlmAgent | PythonAgent | CommandAgent | ClaudeAgent | CrewaiAgent, Field(discriminator="runner")
]
"""The specification of an agent; the field `runner` selects the kind."""

__all__ = [
    "AgentSpec",
    "ApprovalPolicy",
    "ClaudeAgent",
    "CommandAgent",
    "CrewGraph",
    "CrewaiAgent",
    "FunctionPath",
    "Label",
    "LlmAgent",
    "McpServer",
    "McpServers",
    "Name",
    "Permission",
    "PythonAgent",
    "RunnerName",
    "Strict",
    "ToolPatterns",
    "VariableNames",
    "Word",
]
