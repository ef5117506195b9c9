"""The audit trail over HTTP: what is in it, and that it can be checked."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from celeriac.domain.accounts import Role
from celeriac.domain.cassettes import dump
from celeriac.wiring.core import CoreServices
from tests.support.api import EXECUTE, Asker, assert_problem
from tests.support.cassettes import cassette, recorded
from tests.support.waiting import wait_until

TRAIL = "/api/v1/audit-logs"
KEYS = "/api/v1/api-keys"


def entries(admin: Asker, action: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = admin.get(f"{TRAIL}?action={action}&limit=500").json()["items"]
    return found


def test_refused_requests_are_in_the_trail_and_repeats_are_counted(
    ada: Asker, admin: Asker, app_client: TestClient
) -> None:
    for _ in range(5):
        assert_problem(ada.get("/api/v1/users"), 403, "forbidden")
        assert_problem(app_client.get("/api/v1/tasks"), 401, "unauthenticated")
        app_client.get("/api/v1/approvals/links/" + "A" * 90)
    wait_until(lambda: len(entries(admin, "request.refuse")) == 3, "the first ones are written")
    found = entries(admin, "request.refuse")
    assert {(each["actor"], each["details"]["code"]) for each in found} == {
        ("ada", "forbidden"),
        ("anonymous", "unauthenticated"),
        ("anonymous", "link_invalid"),
    }
    assert len(found) == 3, "one entry at once for each kind, however many requests there are"
    forbidden = next(each for each in found if each["actor"] == "ada")
    assert forbidden["resource_id"] == "list_users"
    assert forbidden["details"]["method"] == "GET"
    assert forbidden["actor_id"]
    app_client.app.state.services.access_records.flush(everything=True)  # type: ignore[attr-defined]
    counted = [each["details"].get("repeats") for each in entries(admin, "request.refuse")]
    assert sorted(filter(None, counted)) == [4, 4, 4]


def test_the_trail_of_a_workspace_has_what_was_done_to_it_from_anywhere(
    ada: Asker, admin: Asker
) -> None:
    """And nothing of another one, whichever workspace an administrator's requests name."""
    user = ada.get("/api/v1/me").json()["id"]
    for name in ("team", "other"):
        admin.post("/api/v1/workspaces", json={"name": name})
        for member in ("ada", "admin"):
            body = {"user": member, "role": "admin"}
            assert admin.post(f"/api/v1/workspaces/{name}/members", json=body).status_code == 201
    key = ada.post(KEYS, json={"name": "k", "workspace": "other"}).json()["id"]
    assert ada.delete(f"{KEYS}/{key}").status_code == 204
    budget = {"workspace": "other", "period": "day", "max_tokens": 9}
    waiting = {"variables": {"text": "a"}, "delay_seconds": 900}
    assert ada.post(EXECUTE, json=waiting).status_code == 202
    there = replace(admin, workspace="team")
    assert there.post("/api/v1/budgets", json=budget).status_code == 200
    there.get("/api/v1/users")
    there.get(f"{KEYS}/{key}")
    assert there.post("/api/v1/users", json={"name": "eve"}).status_code == 201
    change = {"role": "viewer", "cancel_executions": True}
    assert there.patch(f"/api/v1/users/{user}", json=change).status_code == 200

    def trail(workspace: str) -> list[str]:
        items = replace(ada, workspace=workspace).get(f"{TRAIL}?limit=500").json()["items"]
        return [each["action"] for each in items[::-1]]

    made = ["workspace.create", "workspace.add_member", "workspace.add_member"]
    assert trail("team") == made
    assert trail("other") == [*made, "api_key.create", "api_key.revoke", "budget.set"]
    own = ada.get("/api/v1/me").json()["workspace_id"]
    (cancelled,) = entries(admin, "execution.cancel")
    assert (cancelled["actor"], cancelled["workspace_id"]) == ("admin", own)


def test_what_administrators_read_of_others_is_in_the_trail(ada: Asker, admin: Asker) -> None:
    owner = ada.get("/api/v1/me").json()["id"]
    key = ada.get(KEYS).json()["items"][0]["id"]
    for _ in range(2):
        admin.get(f"{KEYS}/{key}")
        admin.get(KEYS)
        ada.get(f"{KEYS}/{key}")
    (found,) = entries(admin, "api_key.read")
    assert (found["details"]["operation"], found["resource_id"]) == ("get_api_key", key)
    assert found["actor"] == "admin"
    assert found["details"]["owner_id"] == owner
    assert [each["resource_id"] for each in entries(admin, "api_key.list")] == ["*"]


def test_an_entry_says_in_which_workspace_it_was_done(ada: Asker, admin: Asker) -> None:
    ada.patch("/api/v1/tasks/summarise", json={"active": False})
    (found,) = entries(admin, "task.change")
    assert found["workspace_id"] == ada.get("/api/v1/me").json()["workspace_id"]


def test_what_administrators_read_of_their_own_is_not(admin: Asker, ada: Asker) -> None:
    me = admin.get("/api/v1/me").json()["id"]
    admin.get(f"/api/v1/users/{me}")
    assert entries(admin, "user.read") == []
    admin.get(f"/api/v1/users/{ada.get('/api/v1/me').json()['id']}")
    assert len(entries(admin, "user.read")) == 1


def test_uploads_deletions_and_changes_say_what_they_did(ada: Asker, admin: Asker) -> None:
    made = ada.post(
        "/api/v1/cassettes?name=night", content=dump(cassette(recorded("a", "b")))
    ).json()
    ada.delete(f"/api/v1/cassettes/{made['id']}")
    ada.patch("/api/v1/tasks/summarise", json={"active": False})
    spec = ada.get("/api/v1/agents/writer").json()["spec"]
    ada.patch("/api/v1/agents/writer", json={"spec": spec | {"instructions": "Be long."}})
    assert entries(ada, "cassette.upload")[0]["details"]["name"] == "night"
    assert entries(ada, "cassette.delete")[0]["details"]["name"] == "night"
    assert entries(ada, "task.change")[0]["details"] == {"active": {"before": True, "after": False}}
    assert entries(ada, "agent.change")[0]["details"] == {
        "version": {"before": 1, "after": 2},
        "spec": ["instructions"],
    }


def test_only_administrators_check_the_trail(
    ada: Asker, admin: Asker, app_client: TestClient
) -> None:
    assert_problem(ada.get(f"{TRAIL}/verification"), 403, "forbidden")
    trail = app_client.app.state.services.audit_trail  # type: ignore[attr-defined]
    trail.seal()
    assert trail.seal() > 0
    found = admin.get(f"{TRAIL}/verification").json()
    assert found["ok"]
    assert found["complete"]
    assert found["entries"] > 0
    problem = assert_problem(admin.get(f"{TRAIL}/verification?after=999999"), 422, "invalid_input")
    assert problem["field"] == "after"


def expiring(asker: Asker, minutes: float, **more: Any) -> dict[str, Any]:
    until = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
    made: dict[str, Any] = asker.post(KEYS, json={"name": "k", "expires_at": until, **more}).json()
    return made


def test_a_key_that_expires_makes_none_that_outlives_it(ada: Asker) -> None:
    parent = expiring(ada, 10)
    holder = Asker(ada.client, parent["token"])
    child = holder.post(KEYS, json={"name": "child"}).json()
    assert child["expires_at"] == parent["expires_at"]
    assert expiring(holder, 5)["expires_at"] < parent["expires_at"]
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    problem = assert_problem(
        holder.post(KEYS, json={"name": "x", "expires_at": later}), 403, "forbidden"
    )
    assert problem["field"] == "expires_at"


def test_the_keys_that_a_key_made_end_with_it(ada: Asker) -> None:
    keys = [ada.post(KEYS, json={"name": "0"}).json()]
    for name in ("1", "2"):
        holder = Asker(ada.client, keys[-1]["token"])
        keys.append(holder.post(KEYS, json={"name": name}).json())
    assert ada.delete(f"{KEYS}/{keys[0]['id']}").status_code == 204
    for key in keys:
        assert_problem(Asker(ada.client, key["token"]).get("/api/v1/me"), 401, "unauthenticated")
    assert ada.get("/api/v1/me").status_code == 200
    revoked = {each["resource_id"] for each in entries(ada, "api_key.revoke")}
    assert revoked == {key["id"] for key in keys}


def test_a_key_revokes_none_of_a_higher_role(ada: Asker) -> None:
    own = ada.get(KEYS).json()["items"][0]["id"]
    made = ada.post(KEYS, json={"name": "v", "role": "viewer"}).json()
    viewer = Asker(ada.client, made["token"])
    assert_problem(viewer.delete(f"{KEYS}/{own}"), 403, "forbidden")
    assert ada.get("/api/v1/me").status_code == 200
    assert viewer.delete(f"{KEYS}/{made['id']}").status_code == 204


@pytest.mark.parametrize("cancel", [True, False])
def test_disabling_a_user_cancels_their_work_where_that_is_asked_for(
    ada: Asker, admin: Asker, person: Callable[..., Asker], container: CoreServices, *, cancel: bool
) -> None:
    ada.post(EXECUTE, json={"variables": {"text": "a"}, "delay_seconds": 3600})
    other = person("eve", Role.OPERATOR)
    user = ada.get("/api/v1/me").json()["id"]
    body = {"disabled": True, "cancel_executions": cancel}
    assert admin.patch(f"/api/v1/users/{user}", json=body).status_code == 200
    assert_problem(ada.get("/api/v1/me"), 401, "unauthenticated")
    assert other.get("/api/v1/me").status_code == 200
    with container.database.autocommit() as connection:
        status = connection.execute(text("SELECT status FROM executions")).scalar_one()
    assert status == ("cancelled" if cancel else "pending")
    with container.database.autocommit() as connection:
        details = connection.execute(
            text("SELECT details FROM audit_logs WHERE action = 'user.change'")
        ).scalar_one()
    assert details["disabled_at"]["before"] is None
