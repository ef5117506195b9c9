"""Invitations to workspaces, and the deletion of a workspace."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest

from celeriac.client import Client
from celeriac.db import accounts, workspaces
from celeriac.domain.accounts import Actor, Role
from celeriac.services.keys import add_key
from celeriac.wiring.core import CoreServices, secret_key
from tests.support.api import AGENT, EXECUTE, TASK, Asker, assert_problem
from tests.support.working import claim

pytestmark = pytest.mark.requirement("F8")

WORKSPACES = "/api/v1/workspaces"
TEAM = f"{WORKSPACES}/team"
INVITATIONS = f"{TEAM}/invitations"
ACCEPT = "/api/v1/invitations/accept"
ME = "/api/v1/me"


@pytest.fixture
def team(admin: Asker) -> Asker:
    """The administrator, after making the workspace `team`."""
    assert admin.post(WORKSPACES, json={"name": "team"}).status_code == 201
    return admin


@pytest.fixture
def boss(team: Asker, person: Callable[..., Asker]) -> Asker:
    """An admin of `team`, with a personal key that acts in it."""
    made = person("boss")
    joined = team.post(f"{TEAM}/members", json={"user": "boss", "role": "admin"})
    assert joined.status_code == 201
    return Asker(made.client, made.token, workspace="team")


def invite(asker: Asker, name: str = "eve", **more: Any) -> dict[str, Any]:
    response = asker.post(INVITATIONS, json={"name": name, **more})
    assert response.status_code == 201, response.text
    return dict(response.json())


def accept(asker: Asker, token: str, *, key: str | None = None) -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return asker.client.post(ACCEPT, json={"token": token}, headers=headers)


def statuses(asker: Asker) -> dict[str, str]:
    return {each["name"]: each["status"] for each in asker.get(INVITATIONS).json()["items"]}


def test_a_person_without_a_user_becomes_one_and_a_member(boss: Asker, team: Asker) -> None:
    made = invite(boss, role="viewer")
    assert (made["status"], made["role"], made["workspace_name"]) == ("open", "viewer", "team")
    assert made["token"] not in boss.get(INVITATIONS).text
    accepted = accept(boss, made["token"])
    assert accepted.status_code == 201, accepted.text
    body = accepted.json()
    assert (body["created"], body["user"]["name"], body["user"]["role"]) == (
        True,
        "eve",
        "operator",
    )
    assert body["member"]["role"] == "viewer"
    eve = Asker(boss.client, body["key"]["token"])
    assert eve.get(ME).json()["id"] == body["user"]["id"]
    assert eve.get("/api/v1/tasks", headers={"Celeriac-Workspace": "team"}).status_code == 200
    assert eve.post("/api/v1/agents", json=AGENT).status_code == 201, "in her own workspace"
    assert statuses(boss) == {"eve": "accepted"}
    trail = [each["action"] for each in boss.get("/api/v1/audit-logs").json()["items"]]
    assert trail[:2] == ["invitation.accept", "invitation.create"]
    actions = {each["action"] for each in eve.get("/api/v1/audit-logs").json()["items"]}
    assert {"user.create", "api_key.create"} <= actions
    assert team.get(f"/api/v1/api-keys/{body['key']['id']}").json()["role"] == "operator"


def test_tokens_that_are_no_good_get_one_answer(
    boss: Asker, team: Asker, container: CoreServices
) -> None:
    """Whatever is wrong: only who has a good token learns more."""
    used, revoked, expired, void = (invite(boss, name) for name in ("a", "b", "c", "d"))
    assert accept(boss, used["token"]).status_code == 201
    assert boss.delete(f"{INVITATIONS}/{revoked['id']}").status_code == 204
    assert boss.delete(f"{INVITATIONS}/{revoked['id']}").status_code == 204, "again"
    assert_problem(boss.delete(f"{INVITATIONS}/{used['id']}"), 409, "conflict")
    with container.database.autocommit() as connection:
        connection.exec_driver_sql(
            "UPDATE invitations SET expires_at = now() WHERE id = %s", (UUID(expired["id"]),)
        )
    unnamed = boss.get(ME).json()["id"]
    body = {"role": "operator", "without_admin": True}
    assert team.patch(f"{TEAM}/members/{unnamed}", json=body).status_code == 200
    assert statuses(team) == {"a": "accepted", "b": "revoked", "c": "expired", "d": "void"}
    flipped = void["token"][:-1] + ("0" if void["token"][-1] != "0" else "1")
    answers = set()
    for token in (
        *(each["token"] for each in (used, revoked, expired, void)),
        flipped,
        "celinv_000000000000_00",
        "nonsense",
        team.token,
    ):
        problem = assert_problem(accept(boss, token), 404, "invitation_invalid")
        answers.add((problem["title"], problem["detail"]))
    assert len(answers) == 1
    assert team.patch(f"{TEAM}/members/{unnamed}", json={"role": "admin"}).status_code == 200
    assert accept(boss, void["token"]).status_code == 201, "who may invite again"


def test_an_invitation_ends_with_the_key_that_made_it(boss: Asker) -> None:
    key = boss.post("/api/v1/api-keys", json={"name": "stolen", "workspace": "team"}).json()
    made = invite(Asker(boss.client, key["token"]))
    assert boss.delete(f"/api/v1/api-keys/{key['id']}").status_code == 204
    assert_problem(accept(boss, made["token"]), 404, "invitation_invalid")
    assert statuses(boss) == {"eve": "void"}


def test_an_existing_user_accepts_with_a_key_of_their_own(
    boss: Asker, team: Asker, person: Callable[..., Asker]
) -> None:
    """An invitation gives nobody a key for another user."""
    ada, bob = person("ada"), person("bob")
    made = invite(boss, "ada", role="admin")
    assert_problem(accept(boss, made["token"]), 401, "unauthenticated")
    for key in (bob.token, boss.token, team.token):
        assert_problem(accept(boss, made["token"], key=key), 403, "forbidden")
    assert_problem(accept(boss, made["token"], key="cel_0_0"), 401, "unauthenticated")
    lesser = ada.post("/api/v1/api-keys", json={"name": "look", "role": "viewer"}).json()["token"]
    assert_problem(accept(boss, made["token"], key=lesser), 403, "forbidden")
    accepted = accept(boss, made["token"], key=ada.token)
    assert accepted.status_code == 201, accepted.text
    body = accepted.json()
    assert (body["created"], body["member"]["role"]) == (False, "admin")
    assert (body["key"]["workspace_name"], body["key"]["role"]) == ("team", "admin")
    assert Asker(boss.client, body["key"]["token"]).get(INVITATIONS).status_code == 200
    assert_problem(boss.post(INVITATIONS, json={"name": "ada"}), 409, "conflict")
    user = bob.get(ME).json()["id"]
    for_bob = invite(boss, "bob")
    team.patch(f"/api/v1/users/{user}", json={"disabled": True})
    assert accept(boss, for_bob["token"], key=bob.token).status_code == 401


def test_of_two_who_accept_at_once_one_does(boss: Asker) -> None:
    made = invite(boss)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: accept(boss, made["token"]).status_code, range(4)))
    assert sorted(found) == [201, 404, 404, 404]


def test_names_of_workspaces_and_personal_workspaces_are_refused(boss: Asker, team: Asker) -> None:
    problem = assert_problem(boss.post(INVITATIONS, json={"name": "team"}), 409, "name_taken")
    assert problem["field"] == "name"
    path = f"{WORKSPACES}/boss/invitations"
    assert_problem(team.post(path, json={"name": "eve"}), 409, "conflict")
    made = invite(boss, "taken")
    assert team.post(WORKSPACES, json={"name": "taken"}).status_code == 201
    assert_problem(accept(boss, made["token"]), 409, "name_taken")
    assert statuses(boss) == {"taken": "open"}, "nothing changed"


def test_guessed_tokens_are_limited_like_unknown_keys(boss: Asker) -> None:
    made = invite(boss)
    for number in range(500):
        response = accept(boss, f"celinv_{number:012x}_0")
        if response.status_code == 429:
            break
    else:
        raise AssertionError("never limited")
    assert response.json()["code"] == "too_many_requests"
    assert boss.get(INVITATIONS).status_code == 200, "good keys go on"
    assert made["status"] == "open"


def test_the_client_invites_and_accepts(client: Client, api_url: str) -> None:
    client.workspaces.create("team")
    made = client.workspaces.invite("team", "eve", role="admin", expires_hours=1)
    with Client(api_url, api_key=None) as nobody:
        accepted = nobody.workspaces.accept_invitation(made.token)
    with Client(api_url, api_key=accepted.key.token, workspace="team") as eve:
        (listed,) = eve.workspaces.invitations("team")
        assert (listed.status, listed.role) == ("accepted", Role.ADMIN)
        other = eve.workspaces.invite("team", "dan")
        eve.workspaces.revoke_invitation("team", other.id)
    client.workspaces.delete("team")
    assert [each.name for each in client.workspaces.list() if each.personal_of is None] == []


def test_a_member_who_is_added_during_the_deletion_is_none(
    team: Asker, person: Callable[..., Asker], container: CoreServices
) -> None:
    ada = person("ada")
    user_id = UUID(ada.get(ME).json()["id"])
    workspace_id = UUID(team.get(TEAM).json()["id"])
    program = Actor(user_id, "ada", Role.ADMIN, workspace_id)
    with container.database.transaction() as connection:
        workspaces.add_member(connection, workspace_id, user_id, Role.ADMIN)
        user = accounts.user(connection, user_id)
        assert user is not None
        key = add_key(
            connection,
            secret_key(container.settings),
            program,
            user,
            workspace_id,
            name="k",
            role=Role.ADMIN,
        )
        assert team.delete(TEAM).status_code == 204
    asker = Asker(team.client, key.token)
    assert_problem(asker.get("/api/v1/tasks"), 401, "unauthenticated")


def test_a_workspace_is_deleted_and_its_history_stays(
    boss: Asker, team: Asker, container: CoreServices
) -> None:
    """Its name is free, nobody finds what it had, and nothing of it can run."""
    for path, body in (("/api/v1/agents", AGENT), ("/api/v1/tasks", TASK)):
        assert boss.post(path, json=body).status_code == 201
    key = boss.post("/api/v1/api-keys", json={"name": "p", "workspace": "team"}).json()["token"]
    program, made = Asker(boss.client, key), invite(boss)
    limit = {"task": "summarise", "period": "day", "max_tokens": 9}
    assert boss.post("/api/v1/budgets", json=limit).status_code == 200
    running, pending = (
        program.post(EXECUTE, json={"variables": {"text": "a"}}).json()["execution_id"]
        for _ in range(2)
    )
    claim(container, running)
    flow = {"name": "f", "spec": {"steps": {"one": {"task": "summarise", "with": {"text": "a"}}}}}
    assert boss.post("/api/v1/workflows", json=flow).status_code == 201
    run = boss.post("/api/v1/workflows/f/run", json={"input": {}}).json()["run_id"]
    assert_problem(boss.delete(TEAM), 403, "forbidden")
    refused = assert_problem(team.delete(TEAM), 409, "conflict")
    assert "have not ended" in refused["detail"]
    assert program.post(EXECUTE, json={"variables": {"text": "a"}}).status_code == 202, "unchanged"
    assert team.delete(f"{TEAM}?cancel=true").status_code == 204
    assert_problem(team.get(TEAM), 404, "not_found")
    for asker in (program, boss):
        assert_problem(asker.get("/api/v1/tasks"), 401, "unauthenticated")
    assert_problem(accept(boss, made["token"]), 404, "invitation_invalid")
    with container.database.autocommit() as connection:
        found = connection.exec_driver_sql(
            "SELECT id::text, status, cancel_requested_at IS NOT NULL FROM executions"
        )
        executions = {row[0]: (row[1], row[2]) for row in found}
        asked = connection.exec_driver_sql(
            "SELECT cancel_requested_at IS NOT NULL FROM workflow_runs WHERE id = %s", (UUID(run),)
        )
        assert asked.scalar_one(), "its run is cancelled"
        for table in ("budgets", "budget_windows"):
            assert not connection.exec_driver_sql(f"SELECT FROM {table}").all(), table
    assert executions[running] == ("running", True), "its worker stops it"
    assert executions[pending] == ("cancelled", True)
    assert team.post(WORKSPACES, json={"name": "team"}).status_code == 201, "the name is free"
    assert team.get(f"{TEAM}/members").json()["items"] == []
    trail = team.get("/api/v1/audit-logs?action=workspace.delete").json()["items"]
    assert [each["details"] for each in trail] == [{"name": "team"}]
    assert_problem(team.delete(f"{WORKSPACES}/boss"), 409, "conflict")
