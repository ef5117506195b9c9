"""Signed links: a page without a key that answers one question, once."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from structlog.testing import capture_logs

from celeriac.domain.approvals import Question, QuestionKind
from celeriac.services.approvals.answer import ApprovalLinks
from celeriac.wiring.core import CoreServices, secret_key
from tests.support.api import AGENT, EXECUTE, TASK, Asker, assert_problem
from tests.support.asking import a_form, a_question, park

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(1)>{{ 7 * 7 }}'


class Parsed(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


class Linked:
    """A question, and whoever holds a link to it."""

    def __init__(self, client: TestClient, owner: Asker, approval_id: str, token: str) -> None:
        self.client = client
        self.owner = owner
        self.id = approval_id
        self.path = f"/api/v1/approvals/links/{token}"

    def get(self, **headers: str) -> httpx2.Response:
        return self.client.get(self.path, headers=BROWSER | headers)

    def send(self, **fields: str) -> httpx2.Response:
        return self.client.post(self.path, data=fields, headers=BROWSER)

    def state(self) -> dict[str, Any]:
        return dict(self.owner.get(f"/api/v1/approvals/{self.id}").json())


@pytest.fixture
def linked(
    ada: Asker, container: CoreServices, app_client: TestClient
) -> Callable[[Question], Linked]:
    def make(question: Question) -> Linked:
        accepted = ada.post(EXECUTE, json={"variables": {"text": "x"}}).json()
        execution_id = accepted["execution_id"]
        park(container, execution_id, question)
        (found,) = ada.get(f"/api/v1/approvals?execution_id={execution_id}").json()["items"]
        made = ada.post(f"/api/v1/approvals/{found['id']}/link").json()
        assert made["expires_at"] == found["expires_at"]
        return Linked(app_client, ada, found["id"], made["url"].rpartition("/")[2])

    return make


def test_looking_answers_nothing_and_answering_works_once(
    linked: Callable[[Question], Linked],
) -> None:
    link = linked(a_question())

    for _ in range(3):
        page = link.get()
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "May it be sent?" in page.text
        assert "ada@example.com" in page.text
    assert link.state()["status"] == "open", "previews of links answer nothing"

    thanks = link.send(decision="approve", note="fine")

    assert "<title>Celeriac: Thank you</title>" in thanks.text
    assert "approved" in thanks.text
    assert "May it be sent?" in thanks.text, "it says which question was answered"
    state = link.state()
    assert (state["approved"], state["note"], state["answered_by"]) == (
        True, "fine", "approval link",
    )  # fmt: skip
    assert link.send(decision="deny").status_code == 409
    assert link.state()["approved"] is True
    again = link.get()
    assert "was approved" in again.text
    assert "May it be sent?" in again.text
    assert "<form" not in again.text
    trail = link.owner.get("/api/v1/task-executions/" + state["execution_id"] + "/events").json()
    assert [e["data"]["by"] for e in trail["items"] if e["type"] == "approval_answered"] == [
        "approval link"
    ]


def test_the_page_runs_and_loads_nothing_whatever_an_agent_wrote(
    linked: Callable[[Question], Linked],
) -> None:
    schema = {
        "type": "object",
        "properties": {HOSTILE: {"type": "string", "title": HOSTILE, "description": HOSTILE}},
    }
    question = a_question(
        kind=QuestionKind.FORM, title=HOSTILE, tool=HOSTILE, arguments={HOSTILE: HOSTILE},
        schema=schema,
    )  # fmt: skip

    page = linked(question).get()

    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "frame-ancestors 'none'" in policy
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    parsed = Parsed()
    parsed.feed(page.text)
    assert not parsed.tags & {"script", "img", "iframe", "link", "object", "a"}
    assert parsed.attributes <= {
        "lang", "charset", "name", "content", "class", "method", "autocomplete", "for", "id",
        "value", "maxlength", "rows", "role",
    }  # fmt: skip
    assert HOSTILE in parsed.texts, "it is text, and never a template"


def test_no_text_of_an_agent_reads_differently_than_it_is(
    linked: Callable[[Question], Linked],
) -> None:
    turned = "pay \u202e001"
    schema = {
        "type": "object",
        "properties": {"way": {"title": turned, "description": turned, "enum": [turned, "none"]}},
    }
    question = a_question(
        kind=QuestionKind.FORM, title=turned, tool=turned, arguments={"x": turned}, schema=schema
    )
    parsed = Parsed()
    parsed.feed(linked(question).get().text)
    shown = "".join(parsed.texts)
    assert "\u202e" not in shown
    assert shown.count("pay \N{REPLACEMENT CHARACTER}001") >= 5


def test_a_form_keeps_what_was_written_and_names_the_fault(
    linked: Callable[[Question], Linked],
) -> None:
    link = linked(a_form())
    fields = {"decision": "approve", "value.colour": '"red"', "value.size": "0"}

    page = link.send(**fields)

    assert page.status_code == 422
    assert "value.size" in page.text
    assert 'value="0"' in page.text
    assert link.state()["status"] == "open"
    assert link.send(**(fields | {"value.size": "3"})).status_code == 200
    assert link.state()["value"] == {"colour": "red", "size": 3}


def test_a_free_question_takes_a_text_or_a_denial(linked: Callable[[Question], Linked]) -> None:
    why = a_question(kind=QuestionKind.QUESTION, title="Why?", tool=None, arguments={})
    answered, denied = linked(why), linked(why)

    assert answered.send(decision="approve", value="").status_code == 422
    assert answered.send(decision="approve", value="so\x00").status_code == 200
    assert answered.state()["value"] == "so\ufffd"
    assert denied.send(decision="deny", note="busy").status_code == 200
    assert (denied.state()["approved"], denied.state()["value"]) == (False, None)


def test_links_are_made_by_those_who_may_answer_and_for_what_is_open(
    linked: Callable[[Question], Linked], person: Callable[..., Asker]
) -> None:
    link = linked(a_question())
    path = f"/api/v1/approvals/{link.id}/link"
    looking = link.owner.post("/api/v1/api-keys", json={"name": "look", "role": "viewer"}).json()
    assert_problem(person("eve").post(path), 404, "not_found")
    assert_problem(Asker(link.client, looking["token"]).post(path), 403, "forbidden")
    link.send(decision="deny")
    assert_problem(link.owner.post(path), 409, "approval_closed")
    trail = link.owner.get("/api/v1/audit-logs?action=approval.link").json()["items"]
    assert [entry["resource_id"] for entry in trail] == [link.id]


def test_programs_get_json(linked: Callable[[Question], Linked]) -> None:
    link = linked(a_question())

    shown = link.client.get(link.path, headers={"Accept": "application/json"})
    assert (shown.json()["id"], shown.json()["status"]) == (link.id, "open")
    answered = link.client.post(link.path, json={"approved": False, "note": "no"})

    assert (answered.json()["status"], answered.json()["approved"]) == ("answered", False)
    assert_problem(link.client.post(link.path, json={"approved": True}), 409, "approval_closed")
    assert_problem(link.client.post(link.path, json={"yes": 1}), 422, "invalid_input")


@pytest.mark.parametrize("change", ["cut", "other key", "expired", "flipped", "nonsense"])
def test_no_other_token_leads_anywhere(
    linked: Callable[[Question], Linked], container: CoreServices, change: str
) -> None:
    link = linked(a_question())
    token = link.path.rpartition("/")[2]
    soon = datetime.now(UTC) + timedelta(hours=1)
    links = ApprovalLinks(secret_key(container.settings))
    same = links.read(token)
    assert str(same.approval_id) == link.id
    flipped = token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1]
    tokens = {
        "cut": token[:-3],
        "other key": ApprovalLinks("another secret " * 4).token(same, soon),
        "expired": links.token(same, datetime.now(UTC) - timedelta(seconds=1)),
        "flipped": flipped,
        "nonsense": "abc",
    }
    link.path = f"/api/v1/approvals/links/{tokens[change]}"

    page = link.get()
    assert (page.status_code, "not valid" in page.text) == (404, True)
    assert link.send(decision="approve").status_code == 404
    assert_problem(link.client.get(link.path), 404, "link_invalid")
    assert link.state()["status"] == "open"


def test_links_can_be_revoked(linked: Callable[[Question], Linked], admin: Asker) -> None:
    link = linked(a_question())
    assert link.get().status_code == 200
    assert link.owner.post(f"/api/v1/approvals/{link.id}/revoke-links").status_code == 204
    assert link.get().status_code == 404
    assert link.send(decision="approve").status_code == 404
    made = link.owner.post(f"/api/v1/approvals/{link.id}/link").json()
    link.path = f"/api/v1/approvals/links/{made['url'].rpartition('/')[2]}"
    assert link.get().status_code == 200
    trail = admin.get("/api/v1/audit-logs?action=approval.revoke_links").json()["items"]
    assert [entry["resource_id"] for entry in trail] == [link.id]


def test_links_to_the_questions_of_a_disabled_user_answer_nothing(
    linked: Callable[[Question], Linked], admin: Asker
) -> None:
    link = linked(a_question())
    user = link.owner.get("/api/v1/me").json()["id"]
    admin.patch(f"/api/v1/users/{user}", json={"disabled": True})
    assert link.get().status_code == 404
    assert link.send(decision="approve").status_code == 404
    admin.patch(f"/api/v1/users/{user}", json={"disabled": False})
    assert link.get().status_code == 200


def test_a_link_ends_with_the_right_of_whoever_made_it(
    ada: Asker, admin: Asker, app_client: TestClient, container: CoreServices
) -> None:
    """Their removal and a lesser role end it; links that other members made go on."""
    users = {"ada": ada.get("/api/v1/me").json()["id"]}
    assert admin.post("/api/v1/workspaces", json={"name": "team"}).status_code == 201
    for name in ("ada", "admin"):
        body = {"user": name, "role": "operator"}
        assert admin.post("/api/v1/workspaces/team/members", json=body).status_code == 201
    in_team, other = replace(ada, workspace="team"), replace(admin, workspace="team")
    assert in_team.post("/api/v1/agents", json=AGENT).status_code == 201
    assert in_team.post("/api/v1/tasks", json=TASK).status_code == 201
    accepted = in_team.post(EXECUTE, json={"variables": {"text": "x"}}).json()
    park(container, accepted["execution_id"], a_question())
    (found,) = in_team.get("/api/v1/approvals").json()["items"]
    hers, his = (
        Linked(app_client, asker, found["id"], made["url"].rpartition("/")[2])
        for asker in (in_team, other)
        for made in [asker.post(f"/api/v1/approvals/{found['id']}/link").json()]
    )
    assert hers.get().status_code == his.get().status_code == 200
    member = f"/api/v1/workspaces/team/members/{users['ada']}"
    admin.patch(member, json={"role": "viewer"})
    assert hers.get().status_code == 404
    admin.patch(member, json={"role": "operator"})
    assert hers.get().status_code == 200
    assert admin.delete(member).status_code == 204
    assert hers.get().status_code == 404
    assert hers.send(decision="approve").status_code == 404
    assert his.state()["status"] == "open"
    assert his.send(decision="approve").status_code == 200
    assert his.state()["status"] == "answered"


def test_a_link_is_never_logged(linked: Callable[[Question], Linked]) -> None:
    link = linked(a_question())

    with capture_logs() as lines:
        link.get()
        link.send(decision="approve")

    token = link.path.rpartition("/")[2]
    assert lines
    assert token not in str(lines)
