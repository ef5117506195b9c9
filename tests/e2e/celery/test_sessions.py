"""What an agent leaves behind on a real worker: its session, its files, its report, its error."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from celeriac.client import Client, ClientError
from celeriac.domain.agents import ClaudeAgent
from celeriac.domain.executions.states import Status
from tests.e2e.celery.conftest import Person
from tests.support.fleet import Fleet
from tests.support.logfiles import json_lines
from tests.support.programs import Program
from tests.support.waiting import wait_until


@pytest.fixture
def client(http: httpx.Client, ada: Person, worker: Program) -> Iterator[Client]:
    with Client(str(http.base_url), ada.key) as made:
        yield made


def make(client: Client, name: str, **agent: Any) -> None:
    """Make a task of that name, whose prompt is its variable `prompt`, for an agent of its own."""
    client.agents.create(name, ClaudeAgent(model="claude-test", **agent))
    client.tasks.create(name, name, {"prompt": "{{ prompt }}", "retry": {"max_retries": 0}})


@pytest.mark.requirement("A12", "A14", "A15")
def test_its_files_and_its_report_are_there_to_be_taken(
    client: Client, worker: Program, fleet: Fleet, tmp_path: Path
) -> None:
    make(client, "keeper-of-notes", allowed_tools=("Read", "Write"))
    done = client.executions.run("keeper-of-notes", {"prompt": "[work] Note it."}, timeout=60)
    assert done.status is Status.COMPLETED, done.error_message
    assert done.session_id is not None

    session = client.sessions.get(done.session_id)
    assert (session.status, session.runner) == ("ended", "claude")
    files = client.sessions.files(session.id)
    listed = list(files.list())
    assert [(each.path, each.size) for each in listed] == [("note.txt", 10)]
    files.download("note.txt", tmp_path / "note.txt")
    assert (tmp_path / "note.txt").read_text() == "forty-two\n"

    wait_until(lambda: len(client.executions.reports(done.id)) == 2, "the worker has made reports")
    report = client.executions.report(done.id)
    assert "## Tool calls" in report
    assert "## Model calls" in report
    assert "forty-two" in report
    sizes = {each.format.value: each.size for each in client.executions.reports(done.id)}
    assert sizes["markdown"] == len(report.encode())

    def logged() -> dict[str, int]:
        lines = worker.logged("report.generated")
        mine = [line for line in lines if line["execution_id"] == str(done.id)]
        return {line["format"]: line["size"] for line in mine}

    wait_until(lambda: logged() == sizes, "both are logged with their sizes")
    assert not (fleet.home / "celeriac" / "work" / str(done.id)).exists(), "it had nothing in it"

    client.sessions.delete(session.id)
    assert client.sessions.get(session.id).status == "deleted"
    with pytest.raises(ClientError) as caught:
        list(files.list())
    assert caught.value.code == "files_not_here"


@pytest.mark.requirement("A17")
def test_its_error_is_in_all_four_places(client: Client, http: httpx.Client, fleet: Fleet) -> None:
    make(client, "unlucky")
    failed = client.executions.run("unlucky", {"prompt": "[refused] Go."}, timeout=60)
    assert failed.status is Status.FAILED
    told = (failed.error_code, failed.error_message)
    assert all(told)

    assert failed.session_id is not None
    session = client.sessions.get(failed.session_id)
    assert (session.status, session.error_code, session.error_message) == ("failed", *told)

    def logged() -> list[Any]:
        errors = (fleet.home / "celeriac" / "logs" / "errors").glob("task-errors-*.log")
        lines = [line for file in errors for line in json_lines(file)]
        return [
            (line["error_code"], line["error"])
            for line in lines
            if line["execution_id"] == str(failed.id) and line["event"] == "execution.failed"
        ]

    wait_until(lambda: logged() == [told], "it is in the error log, once")

    wanted = {"resource_id": str(failed.id), "action": "execution.fail"}
    (entry,) = http.get("/api/v1/audit-logs", params=wanted).json()["items"]
    assert (entry["details"]["code"], entry["details"]["message"]) == told
