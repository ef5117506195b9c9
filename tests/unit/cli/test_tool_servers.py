"""The MCP servers of an agent, from options."""

import pytest

from celeriac.cli.catalog.agents import AgentOptions
from celeriac.cli.core.output import UsageProblemError


def test_servers_and_patterns_become_entries() -> None:
    spec = {"runner": "llm", "mcp_servers": [{"name": "old"}]}
    options = AgentOptions(
        mcp=["crm", "weather=https://weather.example/mcp"],
        allow_tool=["crm:read_*", "crm:find"],
        approve_tool=["crm:x"],
    )
    assert options.specification(spec)["mcp_servers"] == [
        {"name": "crm", "allowed_tools": ["read_*", "find"], "approve_tools": ["x"]},
        {"name": "weather", "url": "https://weather.example/mcp"},
    ]


def test_without_options_the_servers_stay() -> None:
    spec = {"mcp_servers": [{"name": "old"}]}
    assert AgentOptions().specification(spec) == {"mcp_servers": [{"name": "old"}]}


@pytest.mark.parametrize("pattern", ["other:x", "crm", "crm:", ":x"])
def test_a_pattern_without_its_server_is_refused(pattern: str) -> None:
    with pytest.raises(UsageProblemError, match="there is no server"):
        AgentOptions(mcp=["crm"], allow_tool=[pattern]).specification()
