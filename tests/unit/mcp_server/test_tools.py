"""The tools as they are described, and what becomes of errors, without any API."""

import re

import pytest
from mcp import Client as McpClient

from celeriac.client import Client, ClientError
from celeriac.mcp_server.access import as_tool_error, bearer_key, one_key
from celeriac.mcp_server.server import build_server
from celeriac.wire import ProblemField
from tests.support.programs import REPOSITORY

PAGE = (REPOSITORY / "docs" / "mcp-server.md").read_text()


@pytest.mark.anyio
async def test_the_page_has_every_tool_and_what_it_changes() -> None:
    with Client("http://127.0.0.1:9", "cel_none") as api:
        async with McpClient(build_server(one_key(api))) as client:
            tools = (await client.list_tools()).tools

    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", PAGE, re.MULTILINE))
    assert set(rows) == {each.name for each in tools}
    for tool in tools:
        assert tool.annotations is not None
        assert (rows[tool.name] == "nothing") is tool.annotations.read_only_hint, tool.name


def test_an_error_has_its_fields_and_a_hint() -> None:
    fields = [ProblemField(field="variables.text", message="is missing")]
    error = ClientError("The variables don't fit.", code="variables_invalid", fields=fields)

    assert as_tool_error(error).splitlines() == [
        "The variables don't fit. [variables_invalid]",
        "variables.text: is missing",
        "get_task shows the schema that the variables must fit.",
    ]


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("Bearer cel_1_2", "cel_1_2"),
        ("bearer  cel_1_2 ", "cel_1_2"),
        ("Bearer ", None),
        ("Basic cel_1_2", None),
        ("", None),
    ],
)
def test_keys_are_read_from_the_header(header: str, key: str | None) -> None:
    assert bearer_key({"authorization": header}) == key
