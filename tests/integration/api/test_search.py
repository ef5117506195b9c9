"""Searches for a text over HTTP, with the client and the command line."""

import json

import pytest

from celeriac.cli.main import main
from celeriac.client import Client
from tests.support.api import Asker, assert_problem, sign_in

pytestmark = pytest.mark.requirement("F19")

SEARCH = "/api/v1/task-executions/search"


@pytest.mark.parametrize(
    "query", ["", "?text=", f"?text={'x' * 201}", "?text=a&queue=b", "?text=a%00"]
)
def test_wrong_searches_are_refused(ada: Asker, query: str) -> None:
    assert_problem(ada.get(SEARCH + query), 422, "invalid_input")


def test_the_client_and_the_command_line_search(
    client: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(client, monkeypatch)
    texts = [{"text": f"Order A-{number}"} for number in (10, 11, 12)]
    ids = client.executions.execute_batch("summarise", texts).execution_ids

    assert [each.id for each in client.executions.search("order a-")] == list(reversed(ids))
    first, second = client.executions.search_windows("order a-1", limit=2)
    assert [len(first.items), len(second.items)] == [2, 1]
    assert first.searched_back_to == client.executions.get(ids[1]).created_at
    assert (first.looked_at, second.looked_at, second.next_cursor) == (2, 1, None)
    assert list(client.executions.search("A-1", windows=0)) == []

    capsys.readouterr()
    assert main(("executions", "search", "a-1", "--limit", "2", "--json")) == 0
    # the server of this process writes its log to the same place
    out = capsys.readouterr().out
    shown = json.loads(out[out.index("{") : out.rindex("}") + 1])
    assert [each["id"] for each in shown["items"]] == [str(ids[2]), str(ids[1])]
    assert main(("executions", "search", "a-1", "--cursor", shown["next_cursor"])) == 0
    told = capsys.readouterr()
    assert str(ids[0])[-6:] in told.out + told.err
    assert "Looked at 1 execution, back to " in told.out + told.err
