"""Tools that agents reach over MCP, and when a person must be asked first."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from celeriac.domain.agent.base import Shape, Strict, Word

ToolPattern = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    Shape(
        r"[A-Za-z0-9_.*?-]+",
        "write a tool's name, or a pattern of names with '*' and '?'",
    ),
]
"""A tool's name, or a pattern of names with `*` and `?`."""

ServerUrl = Annotated[
    str,
    StringConstraints(max_length=2_000),
    Shape(r"https?://.*", "write an address that begins with https:// or http://"),
]

ToolPatterns = Annotated[tuple[ToolPattern, ...], Field(strict=False, max_length=200)]


class McpServer(Strict):
    """An MCP server that an agent may use, and how far.

    Without a `url` the name is that of a server that an administrator configured for the workers:
    programs over stdio come from there only. With one it is reached over streamable HTTP, where
    outbound addresses are guarded.
    """

    name: Word
    url: ServerUrl | None = None
    allowed_tools: ToolPatterns | None = None
    """Tools that the agent sees; None: all that the server offers."""
    approve_tools: ToolPatterns = ()
    """Tools that wait for a person's approval before each call."""
    timeout_seconds: float = Field(default=60.0, gt=0, le=3_600)
    """How long one call may take."""


McpServers = Annotated[tuple[McpServer, ...], Field(strict=False, max_length=20)]


class OnExpiry(StrEnum):
    """What follows when nobody answers a question in time."""

    DENY = "deny"
    """The agent is told no, and goes on."""
    APPROVE = "approve"
    """The agent is told yes."""
    FAIL = "fail"
    """The execution fails with `approval_expired`."""


class ApprovalPolicy(Strict):
    """How long an agent's questions stay open, and what follows when nobody answers."""

    expires_seconds: float = Field(default=86_400.0, ge=1, le=31_536_000)
    on_expiry: OnExpiry = Field(default=OnExpiry.DENY, strict=False)
