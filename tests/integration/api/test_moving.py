"""Executions are moved and prioritised with the client and the command line, one and many."""

import json
import re
from typing import Any

import pytest

from celeriac.cli.main import main
from celeriac.client import Client, ClientError
from tests.support.api import sign_in

pytestmark = pytest.mark.requirement("F15")


def test_the_client_moves_and_prioritises(client: Client) -> None:
    ids = [client.executions.execute("summarise", {"text": "a"}).execution_id for _ in range(3)]
    assert client.executions.move(ids[0], "spare").queue == "spare"
    counted = client.executions.move_many("spare", queue="task_execution", dry_run=True)
    assert (counted.remaining, counted.affected) == (2, 0)
    pages: list[int] = []
    moved = client.executions.move_many(
        "spare", task="summarise", on_page=lambda page: pages.append(page.affected)
    )
    assert set(moved.execution_ids) == set(ids[1:])
    assert pages == [2]
    assert client.executions.prioritise_many("low", dry_run=True, queue="spare").remaining == 3
    lowered = client.executions.prioritise_many("low", queue="spare", status="queued", limit=2)
    assert lowered.affected == 2
    assert lowered.next_cursor is not None, "there are more"
    assert client.executions.cancel_many(queue="spare").affected == 3
    with pytest.raises(ClientError, match="only one that has not ended can be moved"):
        client.executions.move(ids[0], "gpu")


def test_the_command_line_moves_and_prioritises(
    client: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(client, monkeypatch)

    def run(*arguments: str) -> Any:
        assert main(("executions", *arguments, "--json")) == 0, capsys.readouterr().err
        # the server of this process writes its log to the same place
        out = capsys.readouterr().out
        begin = re.search(r"^[\[{]", out, re.MULTILINE)
        assert begin is not None, out
        return json.JSONDecoder().raw_decode(out, begin.start())[0]

    ids = [
        str(client.executions.execute("summarise", {"text": "a"}).execution_id) for _ in range(2)
    ]
    assert run("move", ids[0], "spare")["queue"] == "spare"
    assert run("prioritise", ids[0], "high")["priority"] == "high"
    filters = ("--to", "spare", "--queue", "task_execution")
    assert run("move", *filters, "--dry-run")["remaining"] == 1
    assert run("move", *filters, "--yes")["execution_ids"] == [ids[1]]
    assert run("prioritise", "--to", "high", "--task", "summarise", "--yes")["affected"] == 1
    assert main(("executions", "prioritise", "--to", "low", "--queue", "spare", "--yes")) == 0
    shown = capsys.readouterr()
    assert all(each in shown.out for each in ids)
    assert "Changed: 2 executions." in shown.err
    for wrong in (
        ("move", ids[0]),
        ("move", ids[0], "spare", "--to", "gpu"),
        ("move", ids[0], "spare", "--queue", "gpu"),
        ("move", "--queue", "spare"),
        ("move", "--to", "gpu"),
        ("prioritise", ids[0]),
        ("prioritise", "--task", "summarise"),
    ):
        assert main(("executions", *wrong)) == 2, wrong
    assert main(("executions", "cancel", "--queue", "spare", "--yes")) == 0
    for ended in (("move", ids[0], "gpu"), ("prioritise", ids[0], "low")):
        assert main(("executions", *ended)) == 6, ended
