"""CELERIAC_MCP_SERVERS: MCP servers as an administrator configures them."""

from pathlib import Path

import pytest

from celeriac.domain.errors import ConfigurationError
from celeriac.settings import Settings

SERVERS = """{
  "files": {"command": ["/opt/mcp/files"], "environment": ["FILES_ROOT"]},
  "crm": {"url": "https://crm.example/mcp", "headers": {"Authorization": "CRM_AUTHORIZATION"}}
}"""


@pytest.mark.parametrize("in_a_file", [False, True])
def test_servers_are_given_as_json_or_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_a_file: bool
) -> None:
    path = tmp_path / "servers.json"
    path.write_text(SERVERS)
    monkeypatch.setenv("CELERIAC_MCP_SERVERS", str(path) if in_a_file else SERVERS)

    servers = Settings.load().mcp_servers

    assert servers["files"].command == ("/opt/mcp/files",)
    assert servers["files"].environment == ("FILES_ROOT",)
    assert servers["crm"].url == "https://crm.example/mcp"
    assert servers["crm"].headers == {"Authorization": "CRM_AUTHORIZATION"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("/no/such/file", "must be a JSON object or a readable file"),
        ("{", "must be JSON"),
        ('{"a": {}}', "a: give it a command or a url, and not both"),
        ('{"a": {"command": ["x"], "url": "http://y"}}', "give it a command or a url"),
        ('{"a": {"command": ["./x"]}}', "a.command: .*must be an absolute path"),
        ('{"a": {"url": "ftp://y"}}', "must begin with https://"),
        ('{"a": {"url": "http://y", "environment": ["B"]}}', "environment is for servers with"),
        ('{"a": {"command": ["x"], "headers": {"B": "C"}}}', "headers are for servers with"),
        ('{"a": {"url": "http://y", "headers": {"B": "Bearer secret"}}}', "a.headers.B"),
        ('{"a b": {"url": "http://y"}}', "a b"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(
    monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    monkeypatch.setenv("CELERIAC_MCP_SERVERS", value)

    with pytest.raises(ConfigurationError, match=f"CELERIAC_MCP_SERVERS.*{message}") as caught:
        Settings.load()

    assert "Bearer secret" not in caught.value.message
