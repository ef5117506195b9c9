"""Workspaces: who is a member, what members share, and what a key may do where."""

from collections.abc import Callable
from typing import Any

import pytest

from celeriac.db import accounts
from celeriac.domain.accounts import Role
from celeriac.domain.errors import UnauthenticatedError
from celeriac.services.authentication import Authenticate
from celeriac.wiring.core import CoreServices, secret_key
from tests.support.api import AGENT, EXECUTE, TASK, Asker, assert_problem

WORKSPACES = "/api/v1/workspaces"
MEMBERS = f"{WORKSPACES}/team/members"
KEYS = "/api/v1/api-keys"
ME = "/api/v1/me"
RUN = {"variables": {"text": "a"}}
IN_TEAM = {"Celeriac-Workspace": "team"}


@pytest.fixture
def team(admin: Asker) -> Asker:
    """The administrator, after making the workspace `team`."""
    assert admin.post(WORKSPACES, json={"name": "team"}).status_code == 201
    return admin


@pytest.fixture
def joins(team: Asker, person: Callable[..., Asker]) -> Callable[..., Asker]:
    """Makes a user who is a member of `team`; returns them with a key of it."""

    def join(name: str, role: Role = Role.OPERATOR) -> Asker:
        user = person(name).get(ME).json()
        joined = team.post(MEMBERS, json={"user": name, "role": role.value})
        assert joined.status_code == 201, joined.text
        body = {"name": "team", "user_id": user["id"], "workspace": "team"}
        key = team.post(KEYS, json=body).json()
        assert (key["workspace_name"], key["role"]) == ("team", role.value)
        return Asker(team.client, key["token"])

    return join


def id_of(asker: Asker) -> str:
    return str(asker.get(ME).json()["id"])


@pytest.mark.requirement("F8")
def test_members_share_what_they_make_and_say_who_made_it(joins: Callable[..., Asker]) -> None:
    ada, bob = joins("ada"), joins("bob", Role.VIEWER)
    agent = ada.post("/api/v1/agents", json=AGENT).json()
    task = ada.post("/api/v1/tasks", json=TASK).json()
    accepted = ada.post(EXECUTE, json=RUN).json()
    execution = bob.get(accepted["_links"]["self"]).json()
    for made in (agent, task, execution):
        assert made["owner_id"] == id_of(ada)
        assert made["workspace_id"] != ada.get(ME).json()["workspace_id"], "not her own"
    assert bob.get("/api/v1/tasks/summarise").json()["id"] == task["id"], "names are the team's"
    assert [each["id"] for each in bob.get("/api/v1/task-executions").json()["items"]] == [
        execution["id"]
    ]
    assert_problem(bob.post(EXECUTE, json=RUN), 403, "forbidden")
    problem = assert_problem(joins("eve").post("/api/v1/agents", json=AGENT), 409, "name_taken")
    assert problem["field"] == "name"


def test_each_user_has_a_workspace_that_is_only_theirs(ada: Asker, admin: Asker) -> None:
    me = ada.get(ME).json()
    (own,) = ada.get(WORKSPACES).json()["items"]
    assert (own["id"], own["name"], own["personal_of"]) == (me["workspace_id"], "ada", me["id"])
    (member,) = ada.get(f"{WORKSPACES}/ada/members").json()["items"]
    assert (member["id"], member["name"], member["role"]) == (me["id"], "ada", "operator")
    assert_problem(admin.post(f"{WORKSPACES}/ada/members", json={"user": "admin"}), 409, "conflict")
    path = f"{WORKSPACES}/ada/members/{me['id']}"
    assert_problem(admin.patch(path, json={"role": "admin"}), 409, "conflict")
    assert_problem(admin.delete(path), 409, "conflict")
    admin.patch(f"/api/v1/users/{me['id']}", json={"role": "viewer"})
    assert ada.get(f"{WORKSPACES}/ada/members").json()["items"][0]["role"] == "viewer"
    assert_problem(ada.post(EXECUTE, json=RUN), 403, "forbidden")


def test_users_and_workspaces_have_different_names(team: Asker, ada: Asker) -> None:
    del ada
    for path, name in ((WORKSPACES, "ada"), (WORKSPACES, "team"), ("/api/v1/users", "team")):
        problem = assert_problem(team.post(path, json={"name": name}), 409, "name_taken")
        assert problem["field"] == "name"
    assert_problem(team.post(WORKSPACES, json={"name": "no good"}), 422, "invalid_input")


def test_a_personal_key_works_in_all_workspaces_of_its_user(
    team: Asker, ada: Asker, person: Callable[..., Asker]
) -> None:
    assert_problem(ada.get("/api/v1/tasks", headers=IN_TEAM), 401, "unauthenticated")
    team.post(MEMBERS, json={"user": "ada", "role": "admin"})
    assert ada.get("/api/v1/tasks", headers=IN_TEAM).json()["items"] == []
    assert len(ada.get("/api/v1/tasks").json()["items"]) == 1
    by_id = {"Celeriac-Workspace": team.get(f"{WORKSPACES}/team").json()["id"]}
    assert ada.post("/api/v1/agents", json=AGENT, headers=by_id).status_code == 201
    person("bob")
    for name in ("nowhere", "bob"):
        refused = ada.get(ME, headers={"Celeriac-Workspace": name})
        problem = assert_problem(refused, 401, "unauthenticated")
        assert problem["detail"] == (
            "The API key gives no access to this workspace: its user is no member of it."
        ), "the same for what exists and what doesn't"


def test_a_key_of_a_workspace_works_in_no_other(joins: Callable[..., Asker]) -> None:
    ada = joins("ada")
    assert [each["name"] for each in ada.get(WORKSPACES).json()["items"]] == ["team"]
    for name in ("ada", "admin", "nowhere"):
        headers = {"Celeriac-Workspace": name}
        assert_problem(ada.get("/api/v1/tasks", headers=headers), 401, "unauthenticated")
        assert_problem(ada.get(f"{WORKSPACES}/{name}"), 404, "not_found")
        assert_problem(ada.post(KEYS, json={"name": "x", "workspace": name}), 404, "not_found")
    assert ada.get("/api/v1/tasks", headers=IN_TEAM).status_code == 200
    made = ada.post(KEYS, json={"name": "second"}).json()
    assert made["workspace_name"] == "team"
    assert {each["workspace_name"] for each in ada.get(KEYS).json()["items"]} == {"team"}


def test_a_key_is_never_more_than_the_member(team: Asker, ada: Asker) -> None:
    team.post(MEMBERS, json={"user": "ada", "role": "admin"})
    made = ada.post(KEYS, json={"name": "a", "workspace": "team"}).json()
    assert made["role"] == "admin", "her own role limits her own workspace only"
    ada.post("/api/v1/agents", json=AGENT, headers=IN_TEAM)
    holder = Asker(ada.client, made["token"])
    body = {"role": "viewer", "without_admin": True}
    assert team.patch(f"{MEMBERS}/{id_of(ada)}", json=body).status_code == 200
    for asker, headers in ((holder, {}), (ada, IN_TEAM)):
        assert asker.get("/api/v1/agents/writer", headers=headers).status_code == 200
        assert_problem(asker.delete("/api/v1/agents/writer", headers=headers), 403, "forbidden")
    body = {"name": "b", "workspace": "team", "role": "operator"}
    problem = assert_problem(ada.post(KEYS, json=body), 403, "forbidden")
    assert problem["field"] == "role"


def test_a_lesser_personal_key_is_less_in_every_workspace(team: Asker, ada: Asker) -> None:
    team.post(MEMBERS, json={"user": "ada", "role": "admin"})
    key = ada.post(KEYS, json={"name": "look", "role": "viewer"}).json()
    viewer = Asker(ada.client, key["token"])
    assert viewer.get("/api/v1/tasks", headers=IN_TEAM).status_code == 200
    refused = viewer.post("/api/v1/agents", json=AGENT, headers=IN_TEAM)
    assert_problem(refused, 403, "forbidden")
    body = {"name": "x", "workspace": "team", "role": "admin"}
    assert_problem(viewer.post(KEYS, json=body), 403, "forbidden")


def test_a_lesser_key_stays_one_when_its_user_loses_rights(team: Asker, ada: Asker) -> None:
    team.post(MEMBERS, json={"user": "ada", "role": "admin"})
    lesser = ada.post(KEYS, json={"name": "look", "role": "viewer"}).json()
    viewer = Asker(ada.client, lesser["token"], workspace="team")
    assert team.patch(f"/api/v1/users/{id_of(ada)}", json={"role": "viewer"}).status_code == 200
    made = viewer.post(KEYS, json={"name": "its child", "workspace": "ada"}).json()
    for asker in (viewer, Asker(ada.client, made["token"], workspace="team")):
        assert_problem(asker.post("/api/v1/agents", json=AGENT), 403, "forbidden")
    assert ada.post("/api/v1/agents", json=AGENT, headers=IN_TEAM).status_code == 201


def test_a_lesser_key_takes_its_user_out_of_no_workspace(team: Asker, ada: Asker) -> None:
    """That would revoke keys which it may not revoke."""
    team.post(MEMBERS, json={"user": "ada"})
    for workspace in ("ada", "team"):
        body = {"name": "look", "role": "viewer", "workspace": workspace}
        viewer = Asker(ada.client, ada.post(KEYS, json=body).json()["token"])
        refused = viewer.delete(f"{MEMBERS}/{id_of(ada)}")
        assert assert_problem(refused, 403, "forbidden")["details"]["required"] == "operator"
    assert ada.delete(f"{MEMBERS}/{id_of(ada)}").status_code == 204


def test_an_administrators_key_of_a_workspace_is_confined_to_it(team: Asker, ada: Asker) -> None:
    team.post(MEMBERS, json={"user": "ada", "role": "admin"})
    program = Asker(
        ada.client, ada.post(KEYS, json={"name": "p", "workspace": "team"}).json()["token"]
    )
    user = id_of(ada)
    team.patch(f"/api/v1/users/{user}", json={"role": "admin"})
    assert_problem(program.get("/api/v1/users"), 403, "forbidden")
    assert [each["name"] for each in program.get(WORKSPACES).json()["items"]] == ["team"]
    for body in ({"user_id": id_of(team)}, {"workspace": "ada"}):
        assert_problem(program.post(KEYS, json={"name": "x", **body}), 404, "not_found")
    assert program.post("/api/v1/agents", json=AGENT).status_code == 201


def test_a_removed_member_is_out_at_once_and_stays_out(
    team: Asker, joins: Callable[..., Asker], container: CoreServices
) -> None:
    ada, bob = joins("ada"), joins("bob")
    user = id_of(ada)
    for asker in (ada, bob):
        assert asker.get("/api/v1/tasks").status_code == 200, "the keys are in the cache"
    assert team.delete(f"{MEMBERS}/{user}").status_code == 204
    assert_problem(ada.get("/api/v1/tasks"), 401, "unauthenticated")
    assert bob.get("/api/v1/tasks").status_code == 200
    assert_problem(team.delete(f"{MEMBERS}/{user}"), 404, "not_found")
    elsewhere = Authenticate(container.database, secret_key(container.settings))
    with pytest.raises(UnauthenticatedError, match="revoked"):
        elsewhere(ada.token, request_id=None)
    assert team.post(MEMBERS, json={"user": user}).status_code == 201
    assert_problem(ada.get("/api/v1/tasks"), 401, "unauthenticated")
    trail = team.get("/api/v1/audit-logs?resource_type=workspace").json()["items"]
    assert [each["action"] for each in trail] == [
        "workspace.add_member",
        "workspace.remove_member",
        "workspace.add_member",
        "workspace.add_member",
        "workspace.create",
    ]
    assert trail[1]["details"] == {"user_id": user, "role": "operator"}


def test_a_personal_key_of_a_removed_member_is_refused_in_the_workspace(
    team: Asker, ada: Asker
) -> None:
    team.post(MEMBERS, json={"user": "ada"})
    assert ada.get("/api/v1/tasks", headers=IN_TEAM).status_code == 200
    assert ada.delete(f"{MEMBERS}/{id_of(ada)}").status_code == 204, "everybody may leave"
    assert_problem(ada.get("/api/v1/tasks", headers=IN_TEAM), 401, "unauthenticated")
    assert ada.get("/api/v1/tasks").status_code == 200


def test_a_key_that_was_looked_up_before_a_change_is_not_cached_after_it(
    ada: Asker, container: CoreServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    authenticate = Authenticate(container.database, secret_key(container.settings))
    presented = accounts.presented

    def then_changed(*arguments: Any, **more: Any) -> Any:
        found = presented(*arguments, **more)
        authenticate.forget()
        return found

    authenticate(ada.token, request_id=None)
    assert authenticate.cached(ada.token, request_id=None) is not None
    authenticate.forget()
    monkeypatch.setattr(accounts, "presented", then_changed)
    authenticate(ada.token, request_id=None)
    assert authenticate.cached(ada.token, request_id=None) is None


def test_members_are_managed_by_admins_of_the_workspace_and_administrators(
    team: Asker, joins: Callable[..., Asker]
) -> None:
    boss, ada, bob = joins("boss", Role.ADMIN), joins("ada"), joins("bob", Role.VIEWER)
    path = f"{MEMBERS}/{id_of(bob)}"
    for asker in (ada, bob):
        assert_problem(asker.patch(path, json={"role": "admin"}), 403, "forbidden")
    assert_problem(ada.delete(path), 403, "forbidden")
    assert ada.post("/api/v1/agents", json=AGENT).status_code == 201
    assert boss.patch(path, json={"role": "operator"}).json()["role"] == "operator"
    boss.patch(f"{MEMBERS}/{id_of(ada)}", json={"role": "viewer"})
    assert_problem(ada.delete("/api/v1/agents/writer"), 403, "forbidden")
    listed = {each["name"]: each["role"] for each in ada.get(MEMBERS).json()["items"]}
    assert listed == {"boss": "admin", "ada": "viewer", "bob": "operator"}
    assert_problem(boss.post(MEMBERS, json={"user": "admin"}), 403, "forbidden")
    assert_problem(boss.post(WORKSPACES, json={"name": "x"}), 403, "forbidden")
    assert boss.delete(path).status_code == 204
    assert_problem(team.post(MEMBERS, json={"user": "nobody"}), 404, "not_found")
    assert_problem(team.post(MEMBERS, json={"user": "ada"}), 409, "conflict")


def test_an_admin_of_a_workspace_is_no_administrator(joins: Callable[..., Asker]) -> None:
    boss = joins("boss", Role.ADMIN)
    for path in ("/api/v1/users", "/api/v1/audit-logs/verification"):
        assert_problem(boss.get(path), 403, "forbidden")
    assert_problem(boss.post("/api/v1/users", json={"name": "x"}), 403, "forbidden")
    other = joins("ada")
    other.post("/api/v1/agents", json=AGENT)
    (found,) = boss.get("/api/v1/audit-logs?action=agent.create").json()["items"]
    assert found["actor"] == "ada", "what was done in the workspace, by anybody"
    own = joins("bob").get("/api/v1/audit-logs").json()["items"]
    assert own == [], "others see what they did themselves"


def test_an_administrator_sees_no_resources_of_others_unless_a_member(
    team: Asker, joins: Callable[..., Asker]
) -> None:
    ada = joins("ada")
    ada.post("/api/v1/agents", json=AGENT)
    task = ada.post("/api/v1/tasks", json=TASK).json()
    assert_problem(team.get(f"/api/v1/tasks/{task['id']}"), 404, "not_found")
    assert_problem(team.get("/api/v1/tasks", headers=IN_TEAM), 401, "unauthenticated")
    assert team.get(WORKSPACES).json()["items"], "but workspaces and members"
    assert len(team.get(MEMBERS).json()["items"]) == 1
    team.post(MEMBERS, json={"user": "admin", "role": "viewer"})
    assert team.get(f"/api/v1/tasks/{task['id']}", headers=IN_TEAM).status_code == 200
    assert_problem(team.delete("/api/v1/tasks/summarise", headers=IN_TEAM), 403, "forbidden")
    assert team.get("/api/v1/users", headers=IN_TEAM).status_code == 200, "still one"


def test_the_last_admin_stays_unless_an_administrator_wants_it(
    team: Asker, joins: Callable[..., Asker]
) -> None:
    boss, second = joins("boss", Role.ADMIN), joins("second", Role.ADMIN)
    path, other = f"{MEMBERS}/{id_of(boss)}", f"{MEMBERS}/{id_of(second)}"
    assert second.delete(other).status_code == 204, "there is another one"
    for asker in (boss, team):
        refused = asker.patch(path, json={"role": "operator"})
        assert "last admin" in assert_problem(refused, 409, "conflict")["detail"]
        assert_problem(asker.delete(path), 409, "conflict")
    assert_problem(boss.delete(f"{path}?without_admin=true"), 403, "forbidden")
    body = {"role": "operator", "without_admin": True}
    assert_problem(boss.patch(path, json=body), 403, "forbidden")
    assert boss.patch(path, json={"role": "admin"}).status_code == 200, "nothing changes"
    assert team.patch(path, json=body).json()["role"] == "operator"
    assert team.patch(path, json={"role": "admin"}).status_code == 200
    assert team.delete(f"{path}?without_admin=true").status_code == 204


def test_a_disabled_admin_is_not_counted(team: Asker, joins: Callable[..., Asker]) -> None:
    boss, second = joins("boss", Role.ADMIN), joins("second", Role.ADMIN)
    team.patch(f"/api/v1/users/{id_of(second)}", json={"disabled": True})
    assert_problem(boss.delete(f"{MEMBERS}/{id_of(boss)}"), 409, "conflict")


def test_a_good_key_in_a_wrong_workspace_is_not_a_guess(team: Asker, ada: Asker) -> None:
    """It is refused, and locks nobody out."""
    guesses = team.client.app.state.lookups._bad_keys  # type: ignore[attr-defined]
    for number in range(100):
        refused = ada.get(ME, headers={"Celeriac-Workspace": f"nowhere-{number}"})
        assert_problem(refused, 401, "unauthenticated")
    assert all(at <= guesses._clock() for at in guesses._full_at.values())
    unknown = Asker(ada.client, "cel_000000000000_0")
    assert_problem(unknown.get(ME), 401, "unauthenticated")


def test_only_the_user_and_administrators_see_a_users_budget(
    team: Asker, ada: Asker, joins: Callable[..., Asker]
) -> None:
    bob = joins("bob", Role.ADMIN)
    team.post(MEMBERS, json={"user": "ada"})
    hers = Asker(ada.client, ada.token, workspace="team")
    for path, body in (("/api/v1/agents", AGENT), ("/api/v1/tasks", TASK)):
        assert hers.post(path, json=body).status_code == 201
    limit = {"period": "day", "max_tokens": 10}
    assert team.post("/api/v1/budgets", json=limit | {"user_id": id_of(ada)}).status_code == 200
    assert hers.post("/api/v1/budgets", json=limit | {"task": "summarise"}).status_code == 200
    execution = hers.post(EXECUTE, json=RUN).json()["execution_id"]
    path = f"/api/v1/task-executions/{execution}/budgets"

    def scopes(asker: Asker) -> list[str]:
        return [each["scope"] for each in asker.get(path).json()["items"]]

    assert scopes(hers) == ["task", "user"]
    assert scopes(bob) == ["task"]
    assert team.post(MEMBERS, json={"user": "admin", "role": "viewer"}).status_code == 201
    assert scopes(Asker(team.client, team.token, workspace="team")) == ["task", "user"]


def test_usage_by_workspace_is_for_administrators(
    team: Asker, joins: Callable[..., Asker], container: CoreServices
) -> None:
    boss, usage = joins("boss", Role.ADMIN), "/api/v1/usage?by=workspace"
    assert_problem(boss.get(usage), 403, "forbidden")
    assert team.get(usage).json()["items"] == []
    with container.database.autocommit() as connection:
        connection.exec_driver_sql(
            "INSERT INTO usage_days (workspace_id, owner_id, day, task_id, provider, model, calls,"
            " cost) SELECT w.id, u.id, current_date, gen_random_uuid(), 'p', 'm', 2,"
            " CASE w.name WHEN 'team' THEN 3 ELSE 1 END"
            " FROM workspaces w, users u WHERE w.name IN ('team', 'boss') AND u.name = 'boss'"
        )
    found = [
        (each["name"], each["calls"], each["cost"]) for each in team.get(usage).json()["items"]
    ]
    assert found == [("team", 2, "3.00"), ("boss", 2, "1.00")]


def test_idempotency_keys_of_two_workspaces_are_different(team: Asker, ada: Asker) -> None:
    team.post(MEMBERS, json={"user": "ada"})
    for path, body in (("/api/v1/agents", AGENT), ("/api/v1/tasks", TASK)):
        assert ada.post(path, json=body, headers=IN_TEAM).status_code == 201
    once = {"Idempotency-Key": "1"}
    mine = ada.post(EXECUTE, json=RUN, headers=once).json()
    theirs = ada.post(EXECUTE, json=RUN, headers=once | IN_TEAM).json()
    assert mine["execution_id"] != theirs["execution_id"]
    again = ada.post(EXECUTE, json=RUN, headers=once | IN_TEAM).json()
    assert again["execution_id"] == theirs["execution_id"]
