"""Questions over HTTP: who sees them, who answers them, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest

from celeriac.domain.accounts import Role
from celeriac.domain.approvals import Question
from celeriac.wiring.core import CoreServices
from tests.support.api import EXECUTE, Asker, assert_problem
from tests.support.asking import a_form, a_question, park

APPROVALS = "/api/v1/approvals"


@pytest.fixture
def asked(ada: Asker, container: CoreServices) -> Callable[..., dict[str, Any]]:
    """Makes an execution of Ada's that asks; returns its question."""

    def ask(*questions: Question) -> dict[str, Any]:
        accepted = ada.post(EXECUTE, json={"variables": {"text": "x"}}).json()
        park(container, accepted["execution_id"], *questions)
        (found,) = ada.get(f"{APPROVALS}?execution_id={accepted['execution_id']}").json()["items"]
        return dict(found)

    return ask


def test_a_question_is_listed_shown_and_answered(
    asked: Callable[..., dict[str, Any]], ada: Asker
) -> None:
    question = asked()
    execution = ada.get(question["_links"]["execution"]).json()
    assert (execution["status"], execution["waiting_for"]) == ("waiting", "approval")
    listed = "/api/v1/task-executions?waiting_for="
    assert [each["id"] for each in ada.get(f"{listed}approval").json()["items"]] == [
        execution["id"]
    ]
    assert ada.get(f"{listed}budget").json()["items"] == []
    assert ada.get(execution["_links"]["approvals"]).json()["items"] == [question]
    assert ada.get(question["_links"]["self"]).json() == question
    assert question["task_name"] == "summarise"
    assert question["arguments"] == {"to": "ada@example.com"}

    body = {"approved": True, "value": {"to": "eve@example.com"}, "note": "ok"}
    answered = ada.post(question["_links"]["answer"], json=body).json()

    assert (answered["status"], answered["approved"], answered["answered_by"]) == (
        "answered", True, "ada",
    )  # fmt: skip
    assert (answered["value"], answered["_links"]["answer"]) == ({"to": "eve@example.com"}, None)
    assert ada.post(question["_links"]["answer"], json=body).json() == answered
    assert ada.get(question["_links"]["execution"]).json()["status"] == "queued"
    trail = ada.get("/api/v1/audit-logs?action=approval.answer").json()["items"]
    assert [entry["resource_id"] for entry in trail] == [question["id"]]


def test_another_answer_is_refused(asked: Callable[..., dict[str, Any]], ada: Asker) -> None:
    question = asked()
    ada.post(question["_links"]["answer"], json={"approved": True})

    refused = ada.post(question["_links"]["answer"], json={"approved": False})

    assert (
        "answered already: approved by ada"
        in assert_problem(refused, 409, "approval_closed")["detail"]
    )


def test_a_form_says_which_field_is_wrong(asked: Callable[..., dict[str, Any]], ada: Asker) -> None:
    question = asked(a_form())

    body = {"approved": True, "value": {"colour": "red", "size": 0}}
    problem = assert_problem(
        ada.post(question["_links"]["answer"], json=body), 422, "answer_invalid"
    )

    assert problem["field"] == "value.size"
    assert [fault["field"] for fault in problem["details"]["faults"]] == ["value.size"]


def test_others_see_nothing_and_viewers_answer_nothing(
    asked: Callable[..., dict[str, Any]], ada: Asker, admin: Asker, person: Callable[..., Asker]
) -> None:
    question = asked()
    eve = person("eve")
    viewer_key = ada.post("/api/v1/api-keys", json={"name": "look", "role": "viewer"}).json()
    viewer = Asker(ada.client, viewer_key["token"])
    yes = {"approved": True}

    assert eve.get(APPROVALS).json()["items"] == []
    assert_problem(eve.get(question["_links"]["self"]), 404, "not_found")
    assert_problem(eve.post(question["_links"]["answer"], json=yes), 404, "not_found")
    assert viewer.get(question["_links"]["self"]).status_code == 200
    assert_problem(viewer.post(question["_links"]["answer"], json=yes), 403, "forbidden")
    for other in (admin, person("root", Role.ADMIN)):
        assert_problem(other.post(question["_links"]["answer"], json=yes), 404, "not_found")


def test_lists_are_filtered_and_come_in_pages(
    asked: Callable[..., dict[str, Any]], ada: Asker
) -> None:
    first, second, third = asked(), asked(), asked(a_question("other"))
    ada.post(second["_links"]["answer"], json={"approved": False})

    def ids(query: str) -> list[str]:
        return [item["id"] for item in ada.get(f"{APPROVALS}?{query}").json()["items"]]

    assert ids("status=open") == [third["id"], first["id"]]
    assert ids("status=answered&status=expired") == [second["id"]]
    page = ada.get(f"{APPROVALS}?limit=2").json()
    assert [item["id"] for item in page["items"]] == [third["id"], second["id"]]
    assert ids(f"limit=2&cursor={page['next_cursor']}") == [first["id"]]
