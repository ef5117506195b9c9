"""The MCP servers of an agent, as options tell them."""

import pytest

from celeriac.cli.core.output import UsageProblemError
from celeriac.cli.tool_servers import put_servers


def test_servers_and_patterns_become_entries() -> None:
    spec = {"runner": "llm", "mcp_servers": [{"name": "old"}]}
    put_servers(
        spec, ["crm", "weather=https://weather.example/mcp"], ["crm:read_*", "crm:find"], ["crm:x"]
    )
    assert spec["mcp_servers"] == [
        {"name": "crm", "allowed_tools": ["read_*", "find"], "approve_tools": ["x"]},
        {"name": "weather", "url": "https://weather.example/mcp"},
    ]


def test_without_options_the_servers_stay() -> None:
    spec = {"mcp_servers": [{"name": "old"}]}
    put_servers(spec, [], [], [])
    assert spec == {"mcp_servers": [{"name": "old"}]}


@pytest.mark.parametrize("pattern", ["other:x", "crm", "crm:", ":x"])
def test_a_pattern_without_its_server_is_refused(pattern: str) -> None:
    with pytest.raises(UsageProblemError, match="there is no server"):
        put_servers({}, ["crm"], [pattern], [])
