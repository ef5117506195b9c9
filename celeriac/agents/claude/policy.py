"""What an agent's rules say about one tool call. Pure: no SDK, nobody is asked."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from celeriac.agents.claude.questions import ASK_TOOL
from celeriac.domain.agent import ClaudeAgent, McpServer, Permission

Arguments = Mapping[str, Any]

_OWN = frozenset({"StructuredOutput", "ToolSearch"})
"""Tools by which Claude Code talks to itself: the typed answer, finding other tools."""

_PATH_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "Read": ("file_path",),
    "Write": ("file_path",),
    "Edit": ("file_path",),
    "MultiEdit": ("file_path",),
    "NotebookRead": ("notebook_path",),
    "NotebookEdit": ("notebook_path",),
    "Glob": ("path", "pattern"),
    "Grep": ("path", "glob"),
    "LS": ("path",),
    "LSP": ("filePath", "file_path"),
}
"""The arguments of the file tools that say where they go."""

_WILDCARD = re.compile(r"[*?\[{]")
_UNSAFE_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")


class Verdict(StrEnum):
    """What follows for a call."""

    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, with its reason as the agent is told it."""

    verdict: Verdict
    reason: str = ""


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

    def judge(self, tool: str, arguments: Arguments) -> Decision:
        """Say what follows for a call of `tool`."""
        refusal = self.refusal(tool, arguments)
        if refusal:
            return Decision(Verdict.DENY, refusal)
        if tool in _OWN:
            return ALLOWED
        if self._needs_approval(tool):
            return Decision(Verdict.ASK)
        if _matches(tool, self._spec.allowed_tools):
            return ALLOWED
        if self._spec.permission is Permission.ASK:
            return Decision(Verdict.ASK)
        return Decision(Verdict.DENY, f"This agent may not use {tool}. Do without it.")

    def refusal(self, tool: str, arguments: Arguments) -> str:
        """Return why a call is refused whatever a person says, or an empty text."""
        if _matches(tool, self._spec.denied_tools):
            return f"This agent may never use {tool}. Do without it."
        if tool.startswith("mcp__"):
            server, name = self._mcp_tool(tool)
            if server is None:
                return f"{tool} belongs to no MCP server of this agent."
            if server.allowed_tools is not None and not _matches(name, server.allowed_tools):
                return f"This agent may not use {name} of the MCP server {server.name}."
        for argument in _PATH_ARGUMENTS.get(tool, ()):
            path = arguments.get(argument)
            if path is not None and not self._is_inside(path):
                return (
                    f"{tool} may only go to files in the working directory {self._root}; "
                    f"{argument} leads out of it."
                )
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

    def _is_inside(self, path: object) -> bool:
        """Whether `path`, links followed, lies in the working directory.

        Of a pattern, the part before its first wildcard counts, and `..` may come nowhere in it.
        """
        if not isinstance(path, str) or "\0" in path:
            return False
        fixed = _WILDCARD.split(path, maxsplit=1)[0]
        if fixed != path and ".." in path:  # braces may hide it within a part: {..,x}/y
            return False
        if path.startswith("~"):
            return False
        place = os.path.realpath(os.path.join(self._root, fixed))  # noqa: PTH118 - keeps `..`
        return place == self._root or place.startswith(self._root + os.sep)


def server_key(name: str) -> str:
    """Return an MCP server's name as Claude Code writes it in the names of its tools."""
    return _UNSAFE_IN_NAMES.sub("_", name)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
