"""The MCP servers of an agent, as options tell them."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from celeriac.cli.core.output import UsageProblemError

Servers = Annotated[
    list[str],
    typer.Option(
        "--mcp",
        metavar="NAME[=URL]",
        help="An MCP server of the workers' CELERIAC_MCP_SERVERS, or one at an address.",
    ),
]
Allowed = Annotated[
    list[str],
    typer.Option(
        "--allow-tool",
        metavar="NAME:PATTERN",
        help="Tools of that server that the agent gets; all of them without it.",
    ),
]
Approved = Annotated[
    list[str],
    typer.Option(
        "--approve-tool",
        metavar="NAME:PATTERN",
        help="Tools of that server that a person must approve, call by call.",
    ),
]


def put_servers(
    spec: dict[str, Any], servers: Sequence[str], allowed: Sequence[str], approved: Sequence[str]
) -> None:
    """Set the MCP servers of `spec`, where there are any; they take the place of earlier ones.

    Raises UsageProblemError for a pattern of a server that `--mcp` doesn't name.
    """
    entries: dict[str, dict[str, Any]] = {}
    for server in servers:
        name, _, url = server.partition("=")
        entries[name] = {"name": name, **({"url": url} if url else {})}
    for option, field, patterns in (
        ("--allow-tool", "allowed_tools", allowed),
        ("--approve-tool", "approve_tools", approved),
    ):
        for pattern in patterns:
            name, _, tool = pattern.partition(":")
            if name not in entries or not tool:
                raise UsageProblemError(
                    f"{option} {pattern}: there is no server {name!r}, or no tool is named.",
                    cure=f"Give --mcp {name or 'NAME'} and {option} {name or 'NAME'}:PATTERN.",
                )
            entries[name].setdefault(field, []).append(tool)
    if entries:
        spec["mcp_servers"] = list(entries.values())
