"""Parts of the tools over MCP: names, keys, texts, entries."""

import re

import pytest
from mcp_types import (
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from celeriac.agents.mcp import servers as mcp_servers
from celeriac.agents.mcp.call_keys import CallKeys
from celeriac.agents.mcp.results import (
    MAX_RESULT_CHARACTERS,
    error_text,
    sanitize_json,
    sanitize_text,
    text_of,
)
from celeriac.agents.mcp.servers import HttpServer, StdioServer, ToolServers
from celeriac.agents.mcp.toolset import model_name
from celeriac.domain.agents import McpServer
from celeriac.domain.errors import ConfigurationError
from celeriac.kit.json_types import storable
from celeriac.kit.outbound import OutboundGuard
from tests.support.confined import confined


@pytest.mark.parametrize(
    ("server", "tool", "name"),
    [
        ("crm", "find", "crm__find"),
        ("my-crm_2", "get-it", "my-crm_2__get-it"),
        ("crm.eu", "find", r"crm_eu__find_[0-9a-f]{8}"),
        ("crm", "records/find", r"crm__records_find_[0-9a-f]{8}"),
        ("crm", "f" * 80, r"crm__f{50}_[0-9a-f]{8}"),
    ],
)
def test_models_know_tools_by_names_that_they_can_take(server: str, tool: str, name: str) -> None:

    assert re.fullmatch(name, model_name(server, tool))
    assert len(model_name(server, tool)) <= 64


def test_names_that_become_alike_stay_apart() -> None:
    assert len({model_name("crm", tool) for tool in ("a/b", "a.b", "a b", "a_b")}) == 4


def test_equal_calls_are_counted_and_others_have_other_keys() -> None:
    steps = CallKeys()
    first = steps.next("crm.find", {"a": 1, "b": {"c": [1, {"d": 2, "e": 3}]}})
    again = steps.next("crm.find", {"b": {"c": [1, {"e": 3, "d": 2}]}, "a": 1})
    other = steps.next("crm.find", {"a": 2})
    elsewhere = steps.next("erp.find", {"a": 2})

    name, digest, count = first.split(":")
    assert (name, count) == ("crm.find", "1")
    assert again == f"crm.find:{digest}:2", "the order of arguments makes no difference"
    assert len({first, again, other, elsewhere}) == 4


def test_counting_goes_on_from_an_earlier_attempt() -> None:
    steps = CallKeys()
    steps.next("crm.find", {})

    assert CallKeys(steps.counts).next("crm.find", {}).endswith(":2")


def test_all_kinds_of_content_become_text() -> None:
    content: list[ContentBlock] = [
        TextContent(type="text", text="One."),
        ResourceLink(type="resource_link", name="log", uri="file:///log"),
        EmbeddedResource(
            type="resource", resource=TextResourceContents(uri="file:///a", text="Two.")
        ),
        EmbeddedResource(
            type="resource", resource=BlobResourceContents(uri="file:///b", blob="AAAA")
        ),
    ]

    assert text_of(CallToolResult(content=content)).splitlines() == [
        "One.",
        "[resource log: file:///log]",
        "Two.",
        "[resource file:///b]",
    ]


def test_structured_content_stands_for_a_missing_text() -> None:
    assert text_of(CallToolResult(content=[], structured_content={"n": 1})) == '{"n":1}'


def test_texts_are_cut_and_lose_what_terminals_obey() -> None:
    assert sanitize_text("a\tb\r\nc\x1b[2Jd\x9be\x00\ud800") == "a\tb\r\nc�[2Jd�e�?"
    cut = sanitize_text("x" * (MAX_RESULT_CHARACTERS + 5))
    assert cut.endswith("x\n[cut off: the result is longer]")


@pytest.mark.parametrize(
    "value",
    [
        {"a\x00": ["\ud83d", {"\udfff": 10**30}]},
        [10**400, -(2**63), 2**64, 1.5, None, True],
        {"n": float("nan")},
    ],
)
def test_cleaned_values_can_be_stored(value: object) -> None:
    assert "\\u0000" not in storable(sanitize_json(value))


def test_errors_are_described_in_a_line() -> None:
    assert error_text(ValueError("one\n  two.")) == "one two"
    assert error_text(TimeoutError()) == "TimeoutError"


def test_programs_see_what_is_named_and_what_programs_need() -> None:
    environment = {"PATH": "/bin", "LC_ALL": "C", "SECRET": "s", "TOKEN": "t", "AUTH": "Bearer b"}
    headers = {"Authorization": "AUTH"}
    servers = ToolServers(
        {
            "files": mcp_servers.program(
                ["/opt/files"], ["TOKEN", "ABSENT"], confined(environment)
            ),
            "crm": mcp_servers.address("crm", "http://crm.internal/mcp", headers, environment),
        },
        guard=OutboundGuard(),
    )

    program, address, own = servers.choose(
        [
            McpServer(name="files"),
            McpServer(name="crm"),
            McpServer(name="own", url="https://own.example/mcp"),
        ]
    )

    assert isinstance(program.endpoint, StdioServer)
    assert program.endpoint.environment == {"PATH": "/bin", "LC_ALL": "C", "TOKEN": "t"}
    assert isinstance(address.endpoint, HttpServer)
    assert address.endpoint.headers == {"Authorization": "Bearer b"}
    assert address.endpoint.guard.allow_private, "an administrator's address is trusted"
    assert isinstance(own.endpoint, HttpServer)
    assert not own.endpoint.guard.allow_private
    assert own.endpoint.headers == {}
    assert "Bearer" not in repr(address), "secrets show in no repr"
    assert "'t'" not in repr(program)


def test_a_header_without_its_variable_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="headers of 'crm' come from AUTH, which isn't"):
        mcp_servers.address("crm", "http://crm.internal/mcp", {"Authorization": "AUTH"}, {})
