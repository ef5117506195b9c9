"""Which of a server's tools an agent gets, and how its model knows them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

from mcp_types import Tool

from celeriac.agents.base import clip
from celeriac.agents.mcp.results import clean, readable
from celeriac.agents.mcp.servers import Chosen
from celeriac.domain.errors import AgentMisconfiguredError, SchemaInvalidError
from celeriac.domain.schema import check_schema
from celeriac.kit.jsontypes import JsonObject

MAX_TOOLS = 128
"""Tools of one server that an agent may have; models take no more."""

_MAX_NAME = 64
_MAX_DESCRIPTION = 4_000
_SHOWN_NAMES = 20
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")
_WILDCARDS = frozenset("*?")


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool that an agent may call."""

    name: str
    """As the model knows it."""
    tool: str
    """As its server knows it."""
    description: str
    schema: JsonObject
    """JSON schema of its arguments; a valid one."""
    needs_approval: bool


def model_name(server: str, tool: str) -> str:
    """Return the name under which a model knows a tool: `server__tool`.

    It follows from the two names alone, so that an answer to a call of yesterday finds its tool.
    Names that a model can't take (letters, digits, `_`, `-`, at most 64) are changed and get a
    mark of what they were.
    """
    full = f"{server}__{tool}"
    fit = _UNFIT.sub("_", full)
    if fit == full and len(fit) <= _MAX_NAME:
        return fit
    mark = sha256(full.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{fit[: _MAX_NAME - 9]}_{mark}"


def offers_of(chosen: Chosen, tools: Iterable[Tool]) -> tuple[list[Offer], Mapping[str, str]]:
    """Return the tools that the entry allows, and why others that it allows can't be used.

    Raises AgentMisconfiguredError where the entry names a tool that isn't there or can't be used
    (patterns may match none), or allows too many.
    """
    entry = chosen.entry
    found: dict[str, Tool] = {}
    for tool in tools:
        found.setdefault(tool.name, tool)
    faults: dict[str, str] = {}
    offers: list[Offer] = []
    for name, tool in found.items():
        if entry.allowed_tools is not None and not _matches(name, entry.allowed_tools):
            continue
        try:
            schema = _schema(tool)
        except (SchemaInvalidError, TypeError, ValueError) as error:
            faults[name] = str(error)
            continue
        offers.append(
            Offer(
                name=model_name(entry.name, name),
                tool=name,
                description=clip(readable(tool.description or ""), _MAX_DESCRIPTION),
                schema=schema,
                needs_approval=_matches(name, entry.approve_tools),
            )
        )
    _check_named(chosen, "allowed_tools", entry.allowed_tools or (), found, faults)
    _check_named(chosen, "approve_tools", entry.approve_tools, found, faults)
    if len(offers) > MAX_TOOLS:
        raise AgentMisconfiguredError(
            f"The MCP server {entry.name!r} offers {len(offers)} tools; an agent can have "
            f"{MAX_TOOLS}. Name those that it needs.",
            field=f"{chosen.field}.allowed_tools",
        )
    return offers, faults


def _check_named(
    chosen: Chosen,
    field: str,
    patterns: Sequence[str],
    found: Mapping[str, Tool],
    faults: Mapping[str, str],
) -> None:
    """Refuse names of tools that aren't there: a typo must not take a tool, or its approval."""
    for pattern in patterns:
        if _WILDCARDS & set(pattern):
            continue
        if pattern not in found:
            names = readable(", ".join(sorted(found)[:_SHOWN_NAMES])) or "none at all"
            raise AgentMisconfiguredError(
                f"The MCP server {chosen.entry.name!r} has no tool {pattern!r}. It has: {names}.",
                field=f"{chosen.field}.{field}",
            )
        if pattern in faults:
            raise AgentMisconfiguredError(
                f"The tool {pattern!r} of the MCP server {chosen.entry.name!r} can't be used: "
                f"{faults[pattern]}",
                field=f"{chosen.field}.{field}",
            )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _schema(tool: Tool) -> dict[str, Any]:
    schema = {"type": "object", **clean(tool.input_schema)}
    if schema["type"] != "object":
        raise ValueError("its arguments must be an object")
    check_schema(schema, field="inputSchema")
    return schema
