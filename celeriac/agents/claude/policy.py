"""What an agent's rules say about one tool call. No SDK, nobody is asked."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from celeriac.agents.claude.paths import (
    Arguments,
    OutsideError,
    checked_arguments,
    directory_of,
)
from celeriac.agents.claude.questions import ASK_TOOL
from celeriac.domain.agent import ClaudeAgent, McpServer, Permission

_OWN = frozenset({"StructuredOutput", "ToolSearch"})
"""Tools by which Claude Code talks to itself: the typed answer, finding other tools."""

_UNSAFE_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")


class Verdict(StrEnum):
    """What follows for a call."""

    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, with its reason for the agent, and the arguments that the call is made with.

    Those are the ones that were checked; None keeps the call's own.
    """

    verdict: Verdict
    reason: str = ""
    arguments: dict[str, Any] | None = None


ALLOWED = Decision(Verdict.ALLOW)


class Policy:
    """The rules of one agent in one working directory.

    A denial beats everything, a call that waits for approval beats a rule that allows it. File
    tools never leave the working directory, whatever the rules say: links are followed first.
    """

    def __init__(self, spec: ClaudeAgent, workdir: Path) -> None:
        """Hold the rules of `spec`; `workdir` is where its file tools may go."""
        self._spec = spec
        self._root = os.path.realpath(workdir)
        self._servers = {f"mcp__{server_key(each.name)}__": each for each in spec.mcp_servers}

    def judge(self, tool: str, arguments: Arguments, cwd: str | None = None) -> Decision:
        """Say what follows for a call of `tool`; `cwd` is where Claude Code stands."""
        permitted = self.check(tool, arguments, cwd)
        if permitted.verdict is Verdict.DENY:
            return permitted
        return replace(self._by_rules(tool), arguments=permitted.arguments)

    def check(self, tool: str, arguments: Arguments, cwd: str | None = None) -> Decision:
        """Say whether a call may be made if a person or a rule wants it, and with what arguments.

        The verdict is ALLOW, or DENY for what no answer of a person changes.
        """
        refusal = self._refusal(tool)
        if refusal:
            return Decision(Verdict.DENY, refusal)
        try:
            checked = checked_arguments(tool, arguments, self._root, directory_of(cwd, self._root))
        except OutsideError as error:
            return Decision(Verdict.DENY, str(error))
        return Decision(Verdict.ALLOW, arguments=checked if checked != arguments else None)

    def _by_rules(self, tool: str) -> Decision:
        if tool in _OWN:
            return ALLOWED
        if self._needs_approval(tool):
            return Decision(Verdict.ASK)
        if _matches(tool, self._spec.allowed_tools):
            return ALLOWED
        if self._spec.permission is Permission.ASK:
            return Decision(Verdict.ASK)
        return Decision(Verdict.DENY, f"This agent may not use {tool}. Do without it.")

    def _refusal(self, tool: str) -> str:
        """Return why a tool is refused whatever a person says, or an empty text."""
        if _matches(tool, self._spec.denied_tools):
            return f"This agent may never use {tool}. Do without it."
        if tool.startswith("mcp__"):
            server, name = self._mcp_tool(tool)
            if server is None:
                return f"{tool} belongs to no MCP server of this agent."
            if server.allowed_tools is not None and not _matches(name, server.allowed_tools):
                return f"This agent may not use {name} of the MCP server {server.name}."
        return ""

    def _needs_approval(self, tool: str) -> bool:
        if tool == ASK_TOOL:
            return True
        server, name = self._mcp_tool(tool)
        return server is not None and _matches(name, server.approve_tools)

    def _mcp_tool(self, tool: str) -> tuple[McpServer | None, str]:
        for prefix, server in self._servers.items():
            if tool.startswith(prefix):
                return server, tool.removeprefix(prefix)
        return None, ""


def server_key(name: str) -> str:
    """Return an MCP server's name as Claude Code writes it in the names of its tools."""
    return _UNSAFE_IN_NAMES.sub("_", name)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
