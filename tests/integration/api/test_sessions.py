"""Sessions over HTTP, and the runs that go on with them."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from celeriac.client import Client, ClientError
from celeriac.db import sessions
from celeriac.domain.budgets import Budget
from celeriac.domain.executions.model import Completed, Failed, Failure
from celeriac.wiring.core import CoreServices
from tests.support.api import EXECUTE, Asker, assert_problem
from tests.support.working import begin_session, claim, finish

BODY: dict[str, Any] = {"variables": {"text": "a"}}
SESSIONS = "/api/v1/sessions"


def worked_in(ada: Asker, container: CoreServices, outcome: Completed | Failed) -> tuple[str, str]:
    """Run an execution that makes a session; return both ids."""
    execution_id = ada.post(EXECUTE, json=BODY).json()["execution_id"]
    return execution_id, str(run(container, execution_id, outcome))


def run(container: CoreServices, execution_id: str | UUID, outcome: Completed | Failed) -> UUID:
    claimed = claim(container, execution_id)
    made = begin_session(container, claimed)
    finish(container, claimed, outcome)
    return made


@pytest.mark.requirement("A5", "A12")
def test_a_session_is_shown_and_gone_on_with(ada: Asker, container: CoreServices) -> None:
    execution_id, session_id = worked_in(ada, container, Completed("b"))
    execution = ada.get(f"/api/v1/task-executions/{execution_id}").json()
    assert execution["session_id"] == session_id
    assert execution["_links"]["session"] == f"{SESSIONS}/{session_id}"
    shown = ada.get(execution["_links"]["session"])
    assert "secret" not in shown.text, "the state is the runner's"
    session = shown.json()
    assert session["status"] == "ended"
    assert session["_links"]["execution"].endswith(execution_id)
    accepted = ada.post(EXECUTE, json=BODY | {"session_id": session_id}).json()
    assert accepted["session_id"] == session_id
    assert accepted["_links"]["session"] == f"{SESSIONS}/{session_id}"
    assert ada.get(f"{SESSIONS}/{session_id}").json()["status"] == "active"
    refused = ada.post(EXECUTE, json=BODY | {"session_id": session_id})
    problem = assert_problem(refused, 409, "session_in_use")
    assert problem["details"]["execution_id"] == accepted["execution_id"]
    wanted = {"session_id": session_id, "fork_session": True}
    fork = ada.post(EXECUTE, json=BODY | wanted).json()
    found = ada.get(session["_links"]["executions"]).json()["items"]
    assert [item["id"] for item in found] == [
        fork["execution_id"], accepted["execution_id"], execution_id,
    ]  # fmt: skip
    assert found[0]["options"]["fork_session"] is True


def test_options_of_a_run_are_stored_and_kept_by_a_retry(
    ada: Asker, container: CoreServices
) -> None:
    _, session_id = worked_in(ada, container, Completed("b"))
    wishes = {
        "session_id": session_id, "fork_session": True, "record": True,
        "budget": {"max_cost": 0.25, "max_tokens": 500, "on_budget": "ask"},
    }  # fmt: skip
    accepted = ada.post(EXECUTE, json=BODY | wishes).json()
    path = accepted["_links"]["self"]
    budget = {"max_cost": "0.25", "max_tokens": 500, "on_budget": "ask"}
    options = ada.get(path).json()["options"]
    assert (options["fork_session"], options["record"], options["budget"]) == (True, True, budget)
    ada.post(f"{path}/cancel")
    again = ada.post(f"{path}/retry").json()
    assert again["session_id"] is None, "the work is done from its beginning"
    options = ada.get(again["_links"]["self"]).json()["options"]
    assert (options["fork_session"], options["budget"]) == (False, budget)


@pytest.mark.parametrize(
    ("wishes", "field"),
    [
        ({"fork_session": True}, "body"),
        ({"session_id": "x"}, "session_id"),
        ({"budget": {}}, "budget"),
        ({"budget": {"max_cost": -1}}, "budget.max_cost"),
        ({"budget": {"max_tokens": 1, "on_budget": "maybe"}}, "budget.on_budget"),
        ({"record": "yes"}, "record"),
    ],
)
def test_bad_options_are_refused(ada: Asker, wishes: dict[str, Any], field: str) -> None:
    problem = assert_problem(ada.post(EXECUTE, json=BODY | wishes), 422, "invalid_input")
    assert problem["field"] == field


def test_a_session_that_is_not_there_is_not_found(
    ada: Asker, container: CoreServices, person: Callable[..., Asker]
) -> None:
    _, session_id = worked_in(ada, container, Completed("b"))
    assert_problem(ada.post(EXECUTE, json=BODY | {"session_id": str(uuid4())}), 404, "not_found")
    bob = person("bob")
    for path in (f"{SESSIONS}/{session_id}", f"{SESSIONS}/{session_id}/files"):
        assert_problem(bob.get(path), 404, "not_found")
    assert_problem(bob.delete(f"{SESSIONS}/{session_id}"), 404, "not_found")
    assert bob.get(SESSIONS).json()["items"] == []


@pytest.mark.requirement("A17")
def test_sessions_are_filtered(ada: Asker, container: CoreServices) -> None:
    _, good = worked_in(ada, container, Completed("b"))
    failure = Failure("agent_failed", "It gave up.", {"type": "X", "attempt": 1})
    failed_in, bad = worked_in(ada, container, Failed(failure))

    def found(query: str) -> list[str]:
        return [item["id"] for item in ada.get(f"{SESSIONS}?{query}").json()["items"]]

    assert found("") == found("runner=llm") == [bad, good]
    assert found("runner=claude") == []
    assert found("status=failed") == [bad]
    assert found(f"execution_id={failed_in}") == [bad]
    shown = ada.get(f"{SESSIONS}/{bad}").json()
    assert (shown["error_code"], shown["error_message"]) == ("agent_failed", "It gave up.")
    page = ada.get(f"{SESSIONS}?limit=1").json()
    rest = ada.get(f"{SESSIONS}?limit=1&cursor={page['next_cursor']}").json()
    assert [page["items"][0]["id"], rest["items"][0]["id"]] == [bad, good]


def test_deleting_takes_files_and_state(ada: Asker, admin: Asker, container: CoreServices) -> None:
    _, session_id = worked_in(ada, container, Completed("b"))
    path = f"{SESSIONS}/{session_id}"
    user = ada.post(EXECUTE, json=BODY | {"session_id": session_id}).json()
    assert_problem(ada.delete(path), 409, "session_in_use")
    directory = container.settings.home / "sessions" / session_id
    (directory / "work").mkdir(parents=True)
    (directory / "work" / "a.txt").write_text("a")
    ada.post(user["_links"]["cancel"])
    wishes = {"session_id": session_id, "fork_session": True}
    fork = ada.post(EXECUTE, json=BODY | wishes).json()
    problem = assert_problem(ada.delete(path), 409, "session_in_use")
    assert problem["details"]["execution_id"] == fork["execution_id"]
    ada.post(fork["_links"]["cancel"])
    for _ in range(2):
        assert ada.delete(path).status_code == 204
    assert not directory.exists()
    assert ada.get(path).json()["status"] == "deleted"
    with container.database.autocommit() as connection:
        stored = sessions.get(connection, UUID(session_id), workspace=None)
    assert stored is not None
    assert stored.state is None
    problem = assert_problem(
        ada.post(EXECUTE, json=BODY | {"session_id": session_id}), 409, "session_deleted"
    )
    assert session_id in problem["detail"]
    trail = admin.get("/api/v1/audit-logs?action=session.delete").json()["items"]
    assert [entry["resource_id"] for entry in trail] == [session_id], "said once"


def test_the_client_does_all_of_it(client: Client, container: CoreServices) -> None:
    first = client.executions.execute("summarise", {"text": "a"})
    session_id = run(container, first.execution_id, Completed("b"))
    accepted = client.executions.execute(
        "summarise",
        {"text": "a"},
        session_id=session_id,
        fork_session=True,
        budget=Budget(max_tokens=5),
    )
    assert accepted.session_id == session_id
    assert [each.id for each in client.sessions.list(status="ended")] == [session_id]
    assert client.sessions.get(session_id).external_id == "x-1"
    client.executions.cancel(accepted.execution_id)
    client.sessions.delete(session_id)
    assert client.sessions.get(session_id).status == "deleted"
    with pytest.raises(ClientError) as caught:
        client.executions.execute("summarise", {"text": "a"}, session_id=session_id)
    assert caught.value.code == "session_deleted"
    assert len(list(client.executions.list(session_id=session_id))) == 2
