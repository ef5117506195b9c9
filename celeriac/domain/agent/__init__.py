"""Agents: who does the work. A specification is immutable; a change makes a new version."""

from typing import Annotated

from pydantic import Field

from celeriac.domain.agent.base import Label, Name, RunnerName, Strict, VariableNames, Word
from celeriac.domain.agent.claude import ClaudeAgent, Permission
from celeriac.domain.agent.command import CommandAgent
from celeriac.domain.agent.crew import CrewGraph
from celeriac.domain.agent.crewai import CrewaiAgent
from celeriac.domain.agent.llm import LlmAgent
from celeriac.domain.agent.python import FunctionPath, PythonAgent
from celeriac.domain.agent.tools import (
    ApprovalPolicy,
    McpServer,
    McpServers,
    OnExpiry,
    ToolPatterns,
)

AgentSpec = Annotated[
    LlmAgent | PythonAgent | CommandAgent | ClaudeAgent | CrewaiAgent, Field(discriminator="runner")
]
"""What an agent is; the `runner` field tells which kind."""

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
    "OnExpiry",
    "Permission",
    "PythonAgent",
    "RunnerName",
    "Strict",
    "ToolPatterns",
    "VariableNames",
    "Word",
]
