"""Agents of the kind `claude`."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from celeriac.domain.agent.base import RunnerName, Shape, Strict, VariableNames
from celeriac.domain.agent.tools import ApprovalPolicy, McpServers, ToolPatterns

ToolNames = Annotated[
    tuple[
        Annotated[
            str,
            StringConstraints(max_length=200),
            Shape(
                r"[A-Za-z][A-Za-z0-9_]*",
                "write a tool's name: letters, digits and '_', a letter first",
            ),
        ],
        ...,
    ],
    Field(strict=False, max_length=200),
]
"""Names of tools as they are: no patterns."""


class Permission(StrEnum):
    """What happens to a tool call that no rule of the agent allows or denies."""

    ASK = "ask"
    """A person is asked."""
    DENY = "deny"
    """The agent is told that it may not."""


class ClaudeAgent(Strict):
    """Claude Code, driven through the Claude Agent SDK, in a working directory of its session."""

    runner: Literal[RunnerName.CLAUDE] = RunnerName.CLAUDE
    model: str | None = Field(default=None, min_length=1, max_length=200)
    """None: what Claude Code takes by itself."""
    instructions: str = Field(default="", max_length=100_000)
    """Added to Claude Code's own system prompt."""
    tools: ToolNames = ("Read", "Write", "Edit", "Glob", "Grep", "Bash")
    """The built-in tools that exist for the agent."""
    allowed_tools: ToolPatterns = ("Read", "Glob", "Grep")
    """Tools, built in or `mcp__server__tool`, that run without asking."""
    denied_tools: ToolPatterns = ()
    """Tools that never run, whatever else allows them."""
    permission: Permission = Field(default=Permission.DENY, strict=False)
    max_turns: int | None = Field(default=None, ge=1, le=1_000)
    idle_seconds: float = Field(default=300.0, ge=1, le=86_400)
    """The run is stopped when Claude Code says nothing for so long, a running tool apart."""
    mcp_servers: McpServers = ()
    environment: VariableNames = ()
    """Names of the worker's environment variables that its tools may see."""
    approvals: ApprovalPolicy = ApprovalPolicy()
