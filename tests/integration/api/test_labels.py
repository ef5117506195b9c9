"""Labels over HTTP, with the client and the command line."""

import json
from typing import Any

import pytest

from celeriac.cli.main import main
from celeriac.client import Client
from tests.support.api import EXECUTE, Asker, assert_problem, sign_in

pytestmark = pytest.mark.requirement("F19")


@pytest.mark.parametrize(
    ("labels", "field"),
    [
        ({"no key": "a"}, "labels.no key"),
        ({"key": "a\nb"}, "labels.key"),
        ({"key": ""}, "labels.key"),
        ({"key": 1}, "labels.key"),
        ({f"k{number}": "v" for number in range(17)}, "labels"),
    ],
)
def test_wrong_labels_are_refused_and_named(ada: Asker, labels: dict[str, Any], field: str) -> None:
    refused = ada.post(EXECUTE, json={"variables": {"text": "a"}, "labels": labels})
    problem = assert_problem(refused, 422, "invalid_input")
    assert field in json.dumps(problem)
    assert ada.get("/api/v1/task-executions").json()["items"] == []


def test_a_wrong_filter_selects_nothing(ada: Asker) -> None:
    for name in ("label", "without_label"):
        refused = ada.get(f"/api/v1/task-executions?{name}=acme")
        assert "KEY:VALUE" in json.dumps(assert_problem(refused, 422, "invalid_input"))


def test_the_client_and_the_command_line_label_and_find(
    client: Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(client, monkeypatch)

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert main(arguments) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    text = {"text": "a"}
    one = client.executions.execute("summarise", text, labels={"customer": "acme", "tier": "1"})
    batch = client.executions.execute_batch("summarise", [text], labels={"customer": "beta"})
    found = client.executions.list(label=["customer:acme", "tier:1"])
    assert [each.id for each in found] == [one.execution_id]
    assert [each.id for each in client.executions.list(without_label=["customer:acme"])] == list(
        batch.execution_ids
    )
    command = ("run", "summarise", "--var", "text=a", "--label", "customer=acme", "--detach")
    # the server of this process writes its log to the same place
    started = next(line for line in run(*command).splitlines() if len(line) == 36)
    assert client.executions.get(started).labels == {"customer": "acme"}
    assert (
        run("executions", "label", started, "customer=beta", "tier=2")
        .strip()
        .endswith("customer=beta, tier=2")
    )
    run("executions", "label", started, "--remove", "tier")
    listed = run("executions", "list", "--label", "customer=beta", "--json")
    assert listed.count(started) >= 1
    assert str(one.execution_id) not in listed
    assert "customer=beta" in run("executions", "show", started)
    for wrong in (("label", "last"), ("list", "--label", "acme"), ("label", "last", "acme")):
        assert main(("executions", *wrong)) == 2
