"""Reports over HTTP."""

import pytest

from celeriac.domain.events import EventType, NewEvent
from celeriac.domain.outcome import Completed
from celeriac.kit.jsontypes import dumps
from celeriac.wiring import Container
from tests.support.api import EXECUTE, Asker, assert_problem
from tests.support.working import claim, finish, tell

HOSTILE = "<script>alert(1)</script> ``` # [x](javascript:alert(1))"


@pytest.mark.requirement("A14")
def test_a_report_can_be_downloaded_once_it_has_ended(ada: Asker, container: Container) -> None:
    accepted = ada.post(EXECUTE, json={"variables": {"text": HOSTILE}}).json()
    path = f"{accepted['_links']['self']}/report"
    assert_problem(ada.get(path), 409, "conflict")
    claimed = claim(container, accepted["execution_id"])
    tell(
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
    page = ada.get(f"{path}?format=html")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1>summarise: completed</h1>" in page.text
    assert "<script>" not in page.text
    assert "href=" not in page.text, "nothing that was written by others is a link"
    assert_problem(ada.get(f"{path}?format=pdf"), 422, "invalid_input")
