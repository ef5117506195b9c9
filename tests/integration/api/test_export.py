"""Exports of executions, with the client and the command line over a real socket."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request

from celeriac.api.core.auth import still_allowed
from celeriac.api.v1.executions import export
from celeriac.cli.main import main
from celeriac.client import Client
from celeriac.domain.executions.model import Completed, Failed, Failure
from celeriac.wiring.core import CoreServices
from tests.support.api import sign_in
from tests.support.working import claim, finish

pytestmark = pytest.mark.requirement("F19")

EXPORT = "/api/v1/task-executions/export"
FORMULA = "=HYPERLINK(1)"
TEXT = 'a, "b"\n\u00fc \u2713'


@pytest.fixture
def ids(client: Client, container: CoreServices, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Seven executions, the newest first: more than three pages of the export."""
    monkeypatch.setattr(export, "_AT_ONCE", 2)
    labels = {"customer": "acme"}
    one, two = (
        client.executions.execute("summarise", {"text": TEXT}, labels=labels).execution_id
        for _ in range(2)
    )
    items = [{"text": str(number)} for number in range(5)]
    batch = client.executions.execute_batch("summarise", items, labels=labels)
    finish(container, claim(container, one), Completed(-5))
    failed = Failed(Failure("agent_failed", FORMULA, {"type": "KeyError"}))
    finish(container, claim(container, two), failed)
    return [str(each) for each in reversed((one, two, *batch.execution_ids))]


@pytest.fixture
def shell(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands ask the server of the client."""
    sign_in(client, monkeypatch)


def _rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def _items(client: Client, **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client._http.get("/api/v1/task-executions", params=params).json()[
        "items"
    ]
    return found


@pytest.mark.usefixtures("shell")
def test_an_export_has_the_items_of_the_list(
    client: Client, ids: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    include = ["variables", "result", "error_details"]
    listed = _items(client, include=include, label="customer:acme")
    lines = b"".join(client.executions.export("ndjson", include=include, label=["customer:acme"]))
    assert [json.loads(line) for line in lines.splitlines()] == listed
    assert [each["id"] for each in listed] == ids
    assert not {*include} & {*json.loads(next(client.executions.export("ndjson")).split(b"\n")[0])}

    file = tmp_path / "all.csv"
    command = ("executions", "export", "-o", str(file), "--label", "customer=acme")
    assert main((*command, *(f"--include={name}" for name in include))) == 0
    rows = _rows(file.read_bytes())
    assert [each["id"] for each in rows] == ids
    assert list(rows[0]) == [name for name in listed[0] if name != "_links"]
    for row, item in zip(rows, listed, strict=True):
        assert json.loads(row["variables"]) == item["variables"]
        assert json.loads(row["labels"]) == {"customer": "acme"}
        assert (row["created_at"], row["cost"]) == (item["created_at"], item["cost"])
        assert row["truncated"] == "false"
    assert (rows[5]["error_message"], rows[5]["result"]) == (f"'{FORMULA}", "")
    assert (rows[6]["result"], rows[6]["error_details"]) == ("-5", "")

    before = file.read_bytes()
    assert main((*command, "--status", "failed")) == 1
    assert file.read_bytes() == before, "nothing is replaced unasked"
    assert main((*command, "--status", "failed", "--overwrite")) == 0
    assert [each["id"] for each in _rows(file.read_bytes())] == [ids[5]]
    assert "result" not in _rows(file.read_bytes())[0]
    capsys.readouterr()
    assert main(("executions", "export", "--format", "ndjson", "--limit", "3")) == 0
    # the server of this process writes its log to the same place
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith('{"id"')]
    assert [json.loads(line)["id"] for line in shown] == ids[:3]


def test_an_export_continues_at_its_cursor(
    client: Client, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = client._http.get(EXPORT, params={"limit": 3})
    assert [each["id"] for each in _rows(first.content)] == ids[:3]
    later = client.executions.execute("summarise", {"text": "later"})
    rest: dict[str, Any] = {
        "cursor": first.headers[export.NEXT_CURSOR],
        "limit": 4,
        "header": False,
    }
    second = client._http.get(EXPORT, params=rest)
    assert [each["id"] for each in _rows(first.content + second.content)] == ids
    assert export.NEXT_CURSOR not in second.headers
    listed = client._http.get(
        "/api/v1/task-executions", params={"cursor": first.headers[export.NEXT_CURSOR]}
    )
    assert [each["id"] for each in listed.json()["items"]] == ids[3:]

    monkeypatch.setattr("celeriac.client.export._MOST", 3)
    every = b"".join(client.executions.export())
    assert [each["id"] for each in _rows(every)] == [str(later.execution_id), *ids]
    assert len(_rows(b"".join(client.executions.export(limit=5)))) == 5

    monkeypatch.setattr(export, "MAX_EXPORT", 7)
    refused = client._http.get(EXPORT)
    assert (refused.status_code, refused.json()["field"]) == (422, "limit")
    for wrong in ({"limit": 100_001}, {"format": "xml"}, {"stauts": "failed"}, {"cursor": "x"}):
        refused = client._http.get(EXPORT, params=wrong)
        assert (refused.status_code, refused.json()["field"]) == (422, next(iter(wrong)))


@pytest.mark.usefixtures("shell", "ids")
def test_an_export_that_breaks_off_is_no_complete_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key is revoked after the first page of four."""

    async def revoked_first(request: Request) -> bool:
        services, actor = request.app.state.services, request.state.actor
        for key in services.accounts.keys(actor).items:
            services.accounts.revoke_key(actor, key.id)
        services.authenticate.forget()
        return await still_allowed(request)

    monkeypatch.setattr(export, "still_allowed", revoked_first)
    assert main(("executions", "export", "-o", str(tmp_path / "broken.csv"))) == 1
    assert "broke off and is incomplete" in capsys.readouterr().err
    assert list(tmp_path.glob("broken*")) == []
