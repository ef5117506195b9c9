"""Reports over HTTP."""

from collections.abc import Callable
from hashlib import sha256
from uuid import UUID, uuid4

import pytest

from celeriac.domain.errors import ConflictError
from celeriac.domain.executions.events import EventType, NewEvent
from celeriac.domain.executions.model import Completed
from celeriac.kit.json_types import dumps
from celeriac.services.reports import ReportQueue, ReportStore
from celeriac.wiring.core import CoreServices
from tests.support.api import EXECUTE, Asker, assert_problem
from tests.support.together import together
from tests.support.waiting import wait_until
from tests.support.working import claim, finish, write_events

HOSTILE = "<script>alert(1)</script> ``` # [x](javascript:alert(1))"


@pytest.mark.requirement("A14")
def test_a_report_can_be_downloaded_once_it_has_ended(
    ada: Asker, container: CoreServices, person: Callable[..., Asker]
) -> None:
    accepted = ada.post(EXECUTE, json={"variables": {"text": HOSTILE}}).json()
    path = f"{accepted['_links']['self']}/report"
    assert_problem(ada.get(path), 409, "conflict")
    claimed = claim(container, accepted["execution_id"])
    write_events(
        container,
        claimed,
        [NewEvent(EventType.MESSAGE, dumps({"role": HOSTILE, "content": HOSTILE}))],
    )
    finish(container, claimed, Completed({"summary": HOSTILE}))
    execution = ada.get(accepted["_links"]["self"]).json()
    assert execution["_links"]["report"] == path
    response = ada.get(path)
    assert response.headers["content-type"] == "text/markdown; charset=utf-8"
    name = f"execution-{accepted['execution_id']}.md"
    assert response.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert response.text.startswith("# summarise: completed\n")
    assert ada.get(path).content == response.content, "the same each time"
    assert response.headers["etag"].strip('"') == sha256(response.content).hexdigest()
    assert response.headers["content-security-policy"].startswith("default-src 'none';")
    [kept] = ada.get(f"{path}s").json()["items"]
    assert (kept["format"], kept["size"]) == ("markdown", len(response.content))
    assert kept["sha256"] == sha256(response.content).hexdigest()
    assert ada.get(kept["_links"]["self"]).content == response.content
    page = ada.get(f"{path}?format=html")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1>summarise: completed</h1>" in page.text
    assert "<script>" not in page.text
    assert "href=" not in page.text, "nothing that was written by others is a link"
    assert_problem(ada.get(f"{path}?format=pdf"), 422, "invalid_input")
    formats = [each["format"] for each in ada.get(f"{path}s").json()["items"]]
    assert formats == ["markdown", "html"]
    bob = person("bob")
    for hidden in (path, f"{path}s"):
        assert_problem(bob.get(hidden), 404, "not_found")


@pytest.mark.requirement("A14")
def test_a_report_is_made_once_by_whoever_comes_first(ada: Asker, container: CoreServices) -> None:
    accepted = ada.post(EXECUTE, json={"variables": {"text": "a"}}).json()
    execution_id = UUID(accepted["execution_id"])
    reports = ReportStore(container.database)
    with pytest.raises(ConflictError):
        reports.prepare(execution_id)
    finish(container, claim(container, execution_id), Completed("b"))
    together([lambda: reports.prepare(execution_id)] * 4)
    path = f"{accepted['_links']['self']}/report"
    kept = ada.get(f"{path}s").json()["items"]
    assert {each["format"] for each in kept} == {"markdown", "html"}
    for each in kept:
        content = ada.get(each["_links"]["self"]).content
        assert each["sha256"] == sha256(content).hexdigest()


@pytest.mark.requirement("A14")
def test_a_worker_s_reports_are_made_beside_its_work(ada: Asker, container: CoreServices) -> None:
    ids = []
    for _ in range(3):
        accepted = ada.post(EXECUTE, json={"variables": {"text": "a"}}).json()
        ids.append(UUID(accepted["execution_id"]))
    for execution_id in ids[::2]:
        finish(container, claim(container, execution_id), Completed("b"))
    reporting = ReportQueue(ReportStore(container.database).prepare)
    for execution_id in [ids[0], uuid4(), ids[1], ids[2]]:
        reporting.enqueue(execution_id, {"execution_id": str(execution_id)})

    def made(execution_id: UUID) -> int:
        path = f"/api/v1/task-executions/{execution_id}/reports"
        return len(ada.get(path).json()["items"])

    wait_until(lambda: made(ids[2]) == 2, "the last is made, whatever became of those before it")
    assert made(ids[0]) == 2
    assert made(ids[1]) == 0, "it runs"
    reporting.close()
    ReportQueue(ReportStore(container.database).prepare).close()
